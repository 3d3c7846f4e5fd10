// What a network keeps for products of bfloat16 operands: packed copies of its weights, derived from the float32 ones
// and renewed by every write, and memory to pack a batch's activations and gradients in.
#pragma once

#include <algorithm>
#include <type_traits>
#include <utility>
#include <vector>

#include "network/program.hpp"
#include "ops/dense16.hpp"
#include "runtime/memory.hpp"

namespace fp {

// Whether networks of T can have such products.
template <class T>
inline constexpr bool kMixes = std::is_same_v<T, float>;

// Cut work over rows of a weight gradient in multiples of this, so that parts may be packed apart.
inline constexpr int64_t kGrain16 = 32;

class PackedWeights {
 public:
  const Products16* products = nullptr;  // the path the copies are packed for; nullptr: plain float32

  // Makes (empty) copies for a path, all in one block: they are smaller than what large pages are asked for.
  void choose(const Products16& path, const Program& program) {
    std::vector<Copy> copies(program.parameters.size());
    int64_t size = 0;
    const auto take = [&](int64_t& at, int64_t bytes) {
      if (at < 0) at = std::exchange(size, size + (bytes + 63) / 64 * 64);
    };
    for (const Operation& op : program.operations) {
      if (op.kind != OperationKind::dense) continue;
      const Parameter& w = program.parameters[op.weights];
      Copy& c = copies[op.weights];
      take(c.forward, path.right_bytes(w.rows, w.cols));
      // Only a product whose input is itself computed sends a gradient back through its weights.
      if (op.input() != 0) take(c.backward, path.right_bytes(w.cols, w.rows));
    }
    memory_ = Buffer<char>(size);
    copies_ = std::move(copies);
    products = &path;
  }
  bool has(int p) const { return products && copies_[p].forward >= 0; }
  const void* forward(int p) const { return memory_.data() + copies_[p].forward; }
  const void* backward(int p) const { return memory_.data() + copies_[p].backward; }
  // For a product that writes the weights: the copies, which it then renews itself, where the path can do that.
  Kept16 kept(int p, int64_t rows, int64_t cols) {
    Kept16 k{rows, cols};
    if (!products->keeps) return k;
    k.right = memory_.data() + copies_[p].forward;
    if (copies_[p].backward >= 0) k.right_transposed = memory_.data() + copies_[p].backward;
    return k;
  }

  // Packs a part of the weights w; rows and columns begin at multiples of 16.
  void pack(int p, ops::Matrix<const float> w, Range rows, Range cols) {
    if (!has(p) || rows.size() <= 0 || cols.size() <= 0) return;
    const Copy& c = copies_[p];
    Pack16 part{w.data, w.row, w.rows, w.cols, rows.begin, rows.end, cols.begin, cols.end, memory_.data() + c.forward};
    products->pack_right(part);
    if (c.backward < 0) return;
    part.out = memory_.data() + c.backward;
    products->pack_right_transposed(part);
  }

 private:
  struct Copy {
    int64_t forward = -1, backward = -1;  // where w and its transpose lie as right operands
  };
  std::vector<Copy> copies_;
  Buffer<char> memory_;
};

// Memory for a batch of up to `rows` rows: to pack operands in, and for what exists packed, in bfloat16, alone:
// values that one dense operation and nothing else reads, where they are inputs, or where another one has made them and
// its activation's derivative can be had from them rounded; and the gradients of what is between two dense operations.
class PackedBatch {
 public:
  const Products16* made_for = nullptr;
  int64_t scratch = 0;  // floats that any product needs

  // in_turn: an operation's weight gradient is finished everywhere before anybody packs for the next operation, and
  // before the gradient of the next but one is made.
  void make(const Products16& p, const Program& program, int64_t rows, int threads, bool training, bool in_turn) {
    made_for = &p;
    in_turn_ = in_turn;
    int64_t widest_x = 0, widest_dz = 0;
    if (training) operands_ = std::vector<Operands>(in_turn ? 1 : program.operations.size());
    for (const Operation& op : program.operations) {
      if (op.kind != OperationKind::dense) continue;
      const int64_t in = program.widths[op.input()], out = program.widths[op.output],
                    slab = std::min(rows, p.slab_rows);
      slab_size_ = std::max({slab_size_, p.left_bytes(slab, in), training ? p.left_bytes(slab, out) : 0});
      const int64_t x = p.left_transposed_bytes(in, rows), dz = p.right_bytes(rows, out);
      widest_x = std::max(widest_x, x);
      widest_dz = std::max(widest_dz, dz);
      if (training && !in_turn) operands_[&op - program.operations.data()] = {Buffer<char>(x), Buffer<char>(dz)};
      scratch = std::max(scratch, ops::dense_scratch16(p, rows, in, out));
    }
    slab_size_ = (slab_size_ + 63) / 64 * 64;
    slabs_ = Buffer<char>(slab_size_ * threads, Pages::small);
    if (training && in_turn) operands_[0] = {Buffer<char>(widest_x), Buffer<char>(widest_dz)};
    keep(program, rows, training);
  }
  // Rows of inputs that threads but the first gather for themselves.
  void make_own_inputs(const Program& program, int64_t rows, int threads) {
    if (!made_for || !keeps_value(0)) return;
    for (int rank = 1; rank < threads; ++rank) inputs_.emplace_back(made_for->left_bytes(rows, program.widths[0]));
  }
  char* own_input(int rank) {
    return rank == 0 || inputs_.empty() ? value(0) : inputs_[static_cast<std::size_t>(rank) - 1].data();
  }
  bool keeps_value(int v) const { return places_[v].value >= 0; }
  bool keeps_gradient(int v) const { return places_[v].gradient.left >= 0; }
  // As a left operand.
  char* value(int v) { return kept_.data() + places_[v].value; }
  // As the left operand of the next product downwards, as the right one of the weights' gradient, and the sums of every
  // kSums16 rows for the bias's, sums_row apart.
  char* gradient_left(int v) { return kept_.data() + places_[v].gradient.left; }
  char* gradient_right(int v) { return kept_.data() + places_[v].gradient.right; }
  float* gradient_sums(int v) { return reinterpret_cast<float*>(kept_.data() + places_[v].gradient.sums); }
  static int64_t sums_row(int64_t width) { return (width + 15) / 16 * 16; }
  void* slab(int rank) { return slabs_.data() + rank * slab_size_; }

  // The whole batch's operands of an operation's weight gradient.
  struct Operands {
    Buffer<char> x, dz;
  };
  Operands& operands(int operation) { return operands_[in_turn_ ? 0 : static_cast<std::size_t>(operation)]; }

 private:
  // Whether one dense operation, and nothing else, reads it.
  static bool is_for_a_product(const Program& program, int v) {
    bool fits = program.consumers(v) == 1;
    for (int out : program.outputs) fits &= out != v;
    for (const Operation& op : program.operations)
      for (int in : op.inputs) fits &= in != v || op.kind == OperationKind::dense;
    return fits;
  }
  // The derivative is of z, or rounding changes neither signs nor zeros and it depends on nothing else.
  static bool is_safe(Activation a) {
    return derivative_needs_z(a) || a == Activation::linear || a == Activation::relu || a == Activation::leaky_relu;
  }
  void keep(const Program& program, int64_t rows, bool training) {
    const Products16& p = *made_for;
    places_.assign(program.widths.size(), {});
    if (!p.keeps) return;
    int64_t size = 0;
    const auto take = [&](int64_t bytes) { return std::exchange(size, size + (bytes + 63) / 64 * 64); };
    const auto take_gradient = [&](int64_t left, int64_t right, int64_t width) {
      const int64_t sums = (rows + kSums16 - 1) / kSums16 * sums_row(width) * static_cast<int64_t>(sizeof(float));
      return GradientPlace{take(left), take(right), take(sums)};
    };
    int64_t left = 0, right = 0, widest = 0;
    for (int v = 0; v < static_cast<int>(places_.size()); ++v) {
      const int made = program.producer(v);
      if (!is_for_a_product(program, v) || (v != 0 && program.operations[made].kind != OperationKind::dense)) continue;
      const int64_t width = program.widths[v], as_left = p.left_bytes(rows, width),
                    as_right = p.right_bytes(rows, width);
      Place& to = places_[v];
      if (v == 0 || !training || is_safe(program.operations[made].activation)) to.value = take(as_left);
      if (v == 0 || !training) continue;
      if (!in_turn_) to.gradient = take_gradient(as_left, as_right, width);
      to.parity = made % 2;
      left = std::max(left, as_left);
      right = std::max(right, as_right);
      widest = std::max(widest, width);
    }
    if (in_turn_) {
      const GradientPlace alternate[2] = {take_gradient(left, right, widest), take_gradient(left, right, widest)};
      for (Place& to : places_)
        if (to.parity >= 0) to.gradient = alternate[to.parity];
    }
    kept_ = Buffer<char>(size);
  }

  // Where they are kept, if so.
  struct GradientPlace {
    int64_t left = -1, right = -1, sums = -1;
  };
  struct Place {
    int64_t value = -1;
    GradientPlace gradient;
    int parity = -1;  // of the operation that made it, where two memories serve all gradients in turn
  };
  std::vector<Place> places_;
  Buffer<char> kept_;
  std::vector<Buffer<char>> inputs_;
  int64_t slab_size_ = 0;
  Buffer<char> slabs_;
  bool in_turn_ = false;
  std::vector<Operands> operands_;
};

}  // namespace fp
