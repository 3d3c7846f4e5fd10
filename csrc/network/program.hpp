// A program: immutable operations in topological order over values (matrices with one row per sample).
// The C++ face of src/fastperceptron/program.py.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/table.hpp"

namespace fp {

struct Parameter {
  int64_t rows;  // a kernel (in, out) has in rows; anything else is one row
  int64_t cols;
};

enum class OperationKind { dense, activation, dropout, python };

struct Operation {
  OperationKind kind;
  int input;
  int output;
  int weights = -1;  // parameter numbers of a dense operation
  int bias = -1;
  Activation activation = Activation::linear;
  double alpha = 0;
  double rate = 0;
  uint32_t stream = 0;
  std::vector<int> parameters;  // of an operation written in Python
};

struct Program {
  std::vector<int64_t> widths;  // of each value; value 0 is the input
  std::vector<Parameter> parameters;
  std::vector<Operation> operations;
  int output = 0;

  // Throws std::invalid_argument, naming the operation, when the parts do not fit each other.
  void validate() const;
  bool is_native() const;
  // Each operation reads what the one before it wrote, and the output is the last.
  bool is_chain() const;
  int uses(int parameter) const;
  int consumers(int value) const;
  // The operation that computes a value; -1 for the input.
  int producer(int value) const;
};

// What a backward pass has to compute, given which parameters are trainable.
struct BackwardPlan {
  std::vector<char> value_needed;  // gradient of this value is wanted
  // The consumer's product multiplies by the activation's derivative of the dense operation that made the value.
  std::vector<char> derivative_fused;
  std::vector<char> accumulate;  // per operation: its input's gradient was begun by a later operation

  void build(const Program& program, const std::vector<char>& trainable);
  // Recomputes `accumulate` for operations [first, last), given the values whose gradient exists already.
  void order(const Program& program, int first, int last, const std::vector<char>& begun);
};

}  // namespace fp
