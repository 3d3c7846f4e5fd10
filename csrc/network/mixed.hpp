// What a network keeps for products of bfloat16 operands: packed copies of its weights, derived from the float32 ones
// and renewed by every write, and memory to pack a batch's activations and gradients in.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "network/program.hpp"
#include "ops/dense16.hpp"
#include "runtime/memory.hpp"

namespace fp {

// Cut work over rows of a weight gradient in multiples of this, so that parts may be packed apart.
inline constexpr int64_t kGrain16 = 32;

class PackedWeights {
 public:
  const Products16* products = nullptr;  // the path the copies are packed for; nullptr: plain float32

  // Makes (empty) copies for a path.
  void choose(const Products16& path, const Program& program) {
    products = &path;
    copies_ = std::vector<Copy>(program.parameters.size());
    for (const Operation& op : program.operations) {
      if (op.kind != OperationKind::dense) continue;
      const Parameter& w = program.parameters[op.weights];
      Copy& c = copies_[op.weights];
      if (c.forward.size() == 0) c.forward = Buffer<char>(path.right_bytes(w.rows, w.cols));
      // Only a product whose input is itself computed sends a gradient back through its weights.
      if (op.input() != 0 && c.backward.size() == 0) c.backward = Buffer<char>(path.right_bytes(w.cols, w.rows));
    }
  }
  bool has(int p) const { return products && copies_[p].forward.size() > 0; }
  const void* forward(int p) const { return copies_[p].forward.data(); }
  const void* backward(int p) const { return copies_[p].backward.data(); }

  // Packs a part of the weights w; rows and columns begin at multiples of 16.
  void pack(int p, ops::Matrix<const float> w, Range rows, Range cols) {
    if (!has(p) || rows.size() <= 0 || cols.size() <= 0) return;
    Copy& c = copies_[p];
    Pack16 part{w.data, w.row, w.rows, w.cols, rows.begin, rows.end, cols.begin, cols.end, c.forward.data()};
    products->pack_right(part);
    if (c.backward.size() == 0) return;
    part.out = c.backward.data();
    products->pack_right_transposed(part);
  }

 private:
  struct Copy {
    Buffer<char> forward, backward;  // w and its transpose as right operands
  };
  std::vector<Copy> copies_;
};

// Room to pack a batch of up to `rows` rows in.
class PackedBatch {
 public:
  const Products16* made_for = nullptr;
  int64_t scratch = 0;  // floats that any product needs

  // in_turn: an operation's weight gradient is finished everywhere before anybody packs for the next operation.
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
  }
  void* slab(int rank) { return slabs_.data() + rank * slab_size_; }

  // The whole batch's operands of an operation's weight gradient.
  struct Operands {
    Buffer<char> x, dz;
  };
  Operands& operands(int operation) { return operands_[in_turn_ ? 0 : static_cast<std::size_t>(operation)]; }

 private:
  int64_t slab_size_ = 0;
  Buffer<char> slabs_;
  bool in_turn_ = false;
  std::vector<Operands> operands_;
};

}  // namespace fp
