// A program: immutable operations in topological order over values (matrices with one row per sample).
// The C++ face of src/fastperceptron/program.py.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/table.hpp"

namespace fp {

// An array of numbers: a parameter, or state that is not trained.
struct Parameter {
  int64_t rows;  // a kernel (in, out) has in rows; anything else is one row
  int64_t cols;
};

enum class OperationKind { dense, activation, dropout, add, multiply, concatenate, columns, python };

struct Operation {
  OperationKind kind;
  std::vector<int> inputs;  // one; of add, multiply, concatenate and python any number, a value perhaps twice
  int output;
  int weights = -1;  // parameter numbers of a dense operation
  int bias = -1;
  Activation activation = Activation::linear;
  double alpha = 0;
  double rate = 0;
  uint32_t stream = 0;
  int64_t begin = 0;            // the first of the columns
  std::vector<int> parameters;  // of an operation written in Python

  int input() const { return inputs[0]; }
};

struct Program {
  std::vector<int64_t> widths;  // of each value; value 0 is the input: all inputs side by side
  std::vector<Parameter> parameters;
  std::vector<Parameter> states;  // arrays that go with the parameters but are not trained
  std::vector<Operation> operations;
  std::vector<int> outputs;  // values that predictions and losses read; one may appear again
  bool mixed = false;        // mixed_bfloat16: operands of dense products are rounded to bfloat16

  // Throws std::invalid_argument, naming the operation, when the parts do not fit each other.
  void validate() const;
  bool is_native() const;
  // Each operation reads what the one before it wrote and nothing else, and the last is all that is wanted.
  bool is_chain() const;
  int consumers(int value) const;
  // The operation that computes a value; -1 for the input.
  int producer(int value) const;
  // The values of the inputs: value 0, or the columns of it that operations name, side by side in their order. Empty
  // where these are not the whole of it, or it is read as a whole beside them.
  std::vector<int> inputs() const;
  // The value behind an output.
  int output(int place) const { return outputs[static_cast<std::size_t>(place)]; }
};

}  // namespace fp
