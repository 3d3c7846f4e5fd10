// A predictor: the inference form of a program with a copy of its weights. Immutable; any number of threads may run it
// at once, without locks. Its outputs are those of Network::predict, bit for bit.
#pragma once

#include <atomic>
#include <chrono>
#include <string>
#include <vector>

#include "kernels/bf16.hpp"
#include "network/instance.hpp"
#include "network/occupancy.hpp"
#include "network/parted.hpp"
#include "network/program.hpp"
#include "runtime/dispatch.hpp"
#include "runtime/memory.hpp"
#include "runtime/parallel.hpp"
#include "runtime/spares.hpp"

namespace fp {

// Where the rows of a matrix begin: `row` elements apart.
template <class E>
struct Place {
  E* data;
  int64_t row;
  Place from(int64_t i) const { return {data + i * row, row}; }
};

template <class T>
class Predictor {
 public:
  // Whether the program is one that a predictor can run: with nothing written in Python.
  static bool can_run(const Program& program);

  // changes: of the network that the instance belongs to, which nobody changes meanwhile.
  Predictor(const Program& program, const Instance<T>& instance, Occupancy::Changes changes);
  Predictor(const Predictor&) = delete;

  // The width of each.
  const std::vector<int64_t>& inputs() const { return inputs_; }
  const std::vector<int64_t>& outputs() const { return outputs_; }
  // Arithmetic of one row, for deciding what it is worth.
  double flop() const { return flop_; }
  // Whether the network has not been written to since, and would take the same path for bfloat16 products.
  bool current() const {
    return changes_->load(std::memory_order_acquire) == changes_then_ && (!products_ || products_ == &products16());
  }
  // As Network::product_path. The path of a mixed predictor is that of the moment when it was made.
  std::string product_path() const { return path_name<T>(products_); }
  // The copy of a parameter, unpadded.
  void read(int parameter, T* to) const;

  // x: rows of each input, y: as many of each output; they lie apart. threads: the most to use.
  // Throws std::bad_alloc before anything is computed.
  void run(const Place<const T>* x, const Place<T>* y, int64_t rows, int threads) const {
    if (rows == 1 && row_is_small_)
      run_small(x, y);
    else if (rows > 0)
      run_many(x, y, rows, threads);
  }

 private:
  // A parameter, rows padded to whole registers.
  struct Copy {
    const T* data;
    int64_t cols;
    Parted parted;
  };
  // One operation, or what one of its inputs contributes where it brings several together.
  struct Step {
    OperationKind kind = OperationKind::activation;  // dense; add, multiply: to the output of the step before
    Activation activation = Activation::linear;
    T alpha = 0;
    int weights = -1, bias = -1;   // copies_, or -1
    int64_t in, out;               // widths
    int from, to;                  // slots; ~i: input i, output i
    int64_t to_begin = 0, to_row;  // first column and width of the value that is written
  };
  static constexpr int64_t kPad = 16;  // columns, see RowArgs
  static int64_t padded(int64_t cols) { return (cols + kPad - 1) / kPad * kPad; }
  // Values of one row up to this size lie on the stack, and so does what the products of a row need in mixed precision.
  static constexpr int64_t kStack = 2048, kStackRoom = 2048;
  // Rows that mixed precision packs at once, for a product that follows while they are in cache. Not the path's
  // slab_rows: AMX's, twice as many, are for runs that keep values packed in two bytes; here they are float32.
  static constexpr int64_t kMostPacked = 256;

  // What one thread's products need, in elements: scratch, and room for the packed rows of mixed precision.
  struct Need {
    int64_t scratch, room;
    int64_t size() const { return scratch + room; }
  };
  struct Batch {
    const Kernels<T>& kernels;  // asked for once: another thread may choose others meanwhile
    const Place<const T>* x;
    const Place<T>* y;
    Range rows;
    T* slots;
  };
  // The parts of the constructor.
  void copy_weights(const Program& program, const Instance<T>& instance);
  void pack_weights(const Program& program);
  void compile(const Program& program);
  // Its steps: from those places of its inputs to this one.
  void add_operation(const Program& program, const Operation& op, const std::vector<int>& from, int to);
  void add_step(Step s);

  // The instruction set of a mixed predictor goes with its path.
  const Kernels<T>& kernels_in_use() const { return kernels_ ? *kernels_ : kernels<T>(); }
  Need need(const Kernels<T>& k, int64_t rows) const;
  int64_t slot_size(int64_t rows) const { return rows * slot_row_; }
  // One row; the outputs have the last slots. products: Need::size() elements, in mixed precision only.
  void run_row(const Place<const T>* x, const Place<T>* y, T* slots, T* products) const;
  void run_small(const Place<const T>* x, const Place<T>* y) const;
  template <int64_t room>
  void run_on_stack(const Place<const T>* x, const Place<T>* y) const;
  void run_many(const Place<const T>* x, const Place<T>* y, int64_t rows, int threads) const;
  // All members of the team together over one batch, cut by columns. scratch: this thread's, Need::size() elements.
  void run_columns(Team& team, const Batch& batch, T* scratch, Need need) const;
  // One thread over one batch.
  void run_rows(const Batch& batch, T* scratch, Need need) const;
  static void elementwise(const Kernels<T>& k, const Step& s, int64_t rows, Place<const T> from, T* to, int64_t to_row);
  void step(const Step& s, const Batch& batch, Range cols, T* scratch, Need need) const;
  // Columns of a dense operation in mixed precision.
  void dense16(const Step& s, int64_t rows, Place<const T> from, T* to, int64_t to_row, Range cols, T* scratch,
               Need need) const;

  std::vector<int64_t> inputs_, outputs_;
  double flop_ = 0, widest_flop_ = 0;
  Buffer<T> block_;
  std::vector<Copy> copies_;
  std::vector<Step> steps_;
  int slots_ = 0;
  int64_t slot_row_ = 0;
  bool row_is_small_ = true;  // one row runs by itself
  Need row_need_{};
  // Mixed precision: the path, its instruction set, and the weights packed for it beside the copies in float32.
  const Products16* products_ = nullptr;
  const Kernels<T>* kernels_ = nullptr;
  std::vector<Buffer<char>> packed_;  // by parameter
  Occupancy::Changes changes_;
  uint64_t changes_then_;

  mutable Spares<Buffer<T>> spares_;
  // Of large weights: when the run in progress began, or 0, and when the last one was over.
  class Reader;
  using Clock = std::chrono::steady_clock;
  mutable std::atomic<Clock::rep> begun_{0}, ended_{0};
};

extern template class Predictor<float>;
extern template class Predictor<double>;

}  // namespace fp
