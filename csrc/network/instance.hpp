// An instance: the numbers of one network. One contiguous block per kind (parameters, gradients, each of the
// optimizer's slots), all with the same offsets, and one for the state that is not trained; rows of at least kPadFrom
// columns are padded to whole cache lines; pads are always zero.
#pragma once

#include <cstring>
#include <string>
#include <type_traits>
#include <vector>

#include "network/mixed.hpp"
#include "network/program.hpp"
#include "ops/dense.hpp"
#include "runtime/memory.hpp"

namespace fp {

template <class T>
inline constexpr int64_t kLine = static_cast<int64_t>(kAlignment / sizeof(T));
inline constexpr int64_t kPadFrom = 16;

template <class T>
int64_t padded_row(int64_t cols) {
  return cols < kPadFrom ? cols : (cols + kLine<T> - 1) / kLine<T> * kLine<T>;
}

struct Sgd {
  double learning_rate = 0.01;
  double momentum = 0;
  bool nesterov = false;
};

// Where one array lies in a block.
struct Slice {
  int64_t offset, rows, cols, row;
  int64_t extent() const { return rows * row; }
};

// Where the arrays of a block lie.
struct Layout {
  std::vector<Slice> slices;
  int64_t size = 0;
};

template <class T>
Layout layout_of(const std::vector<Parameter>& arrays) {
  Layout layout;
  for (const Parameter& p : arrays) {
    const Slice s{layout.size, p.rows, p.cols, padded_row<T>(p.cols)};
    layout.slices.push_back(s);
    layout.size += (s.extent() + kLine<T> - 1) / kLine<T> * kLine<T>;
  }
  return layout;
}

template <class T>
class Instance {
 public:
  // The optimizer's memory of one kind.
  struct Slot {
    std::string name;
    Buffer<T> block;
  };

  explicit Instance(const Program& program)
      : layout_(layout_of<T>(program.parameters)), state_layout_(layout_of<T>(program.states)) {
    parameters = Buffer<T>(layout_.size);
    state = Buffer<T>(state_layout_.size);
    transposed_.resize(layout_.slices.size());
    stale_.assign(layout_.slices.size(), 0);
    // Only a product with parameters below it sends a gradient back through its weights.
    std::vector<char> learns(program.widths.size(), 0);
    for (const Operation& op : program.operations) {
      learns[op.output] = op.weights >= 0 || !op.parameters.empty();
      for (int v : op.inputs) learns[op.output] |= learns[v];
      if (!program.mixed && op.weights >= 0 && learns[op.input()] && transposed_[op.weights].size() == 0) {
        const Slice& s = layout_.slices[op.weights];
        transposed_[op.weights] = Buffer<T>(s.cols * padded_row<T>(s.rows));
        stale_[op.weights] = 1;
      }
    }
  }

  const Layout& layout() const { return layout_; }
  const Layout& state_layout() const { return state_layout_; }
  const Slice& slice(int p) const { return layout_.slices[p]; }
  int count() const { return static_cast<int>(layout_.slices.size()); }
  T* at(Buffer<T>& block, int p) { return block.data() + layout_.slices[p].offset; }

  ops::Matrix<const T> weights(int p) const {
    const Slice& s = slice(p);
    return {parameters.data() + s.offset, s.rows, s.cols, s.row};
  }
  const T* vector(int p) const { return p < 0 ? nullptr : parameters.data() + slice(p).offset; }

  // w transposed, (out, in): kept in step with w by every write.
  ops::Matrix<const T> transposed(int p) const {
    const Slice& s = slice(p);
    return {transposed_[p].data(), s.cols, s.rows, padded_row<T>(s.rows)};
  }
  bool has_transposed(int p) const { return transposed_[p].size() > 0; }
  void transpose_part(const Kernels<T>& k, int p, Range rows, Range cols) {
    const Slice& s = slice(p);
    const int64_t to = padded_row<T>(s.rows);
    if (rows.size() > 0 && cols.size() > 0)
      k.transpose(rows.size(), cols.size(), parameters.data() + s.offset + rows.begin * s.row + cols.begin, s.row,
                  transposed_[p].data() + cols.begin * to + rows.begin, to);
  }
  // A part of the weights was written: renews the packed copies of mixed precision.
  void pack_part(int p, Range rows, Range cols) {
    if constexpr (std::is_same_v<T, float>) packed.pack(p, weights(p), rows, cols);
  }
  void pack_all() {
    for (int p = 0; p < count(); ++p) pack_part(p, {0, slice(p).rows}, {0, slice(p).cols});
  }
  void mark_written(int p) {
    stale_[p] = has_transposed(p);
    pack_part(p, {0, slice(p).rows}, {0, slice(p).cols});
  }
  void refresh_transposed(const Kernels<T>& k) {
    for (int p = 0; p < count(); ++p)
      if (stale_[p]) {
        transpose_part(k, p, {0, slice(p).rows}, {0, slice(p).cols});
        stale_[p] = 0;
      }
  }

  // Unpadded arrays out of a block and into it.
  static void copy_out(const Buffer<T>& block, const Slice& s, T* to) {
    for (int64_t i = 0; i < s.rows; ++i)
      std::memcpy(to + i * s.cols, block.data() + s.offset + i * s.row, sizeof(T) * static_cast<std::size_t>(s.cols));
  }
  static void copy_in(Buffer<T>& block, const Slice& s, const T* from) {
    for (int64_t i = 0; i < s.rows; ++i)
      std::memcpy(block.data() + s.offset + i * s.row, from + i * s.cols, sizeof(T) * static_cast<std::size_t>(s.cols));
  }
  void clear(Buffer<T>& block, int p) {
    std::memset(at(block, p), 0, sizeof(T) * static_cast<std::size_t>(slice(p).extent()));
  }
  // Blocks that not every run needs are made when first asked for.
  void need(Buffer<T>& block) {
    if (block.size() != parameters.size()) block = Buffer<T>(parameters.size());
  }

  // The slots that an optimizer needs, in this order; those that were there keep their numbers.
  void set_slots(const std::vector<std::string>& names) {
    std::vector<Slot> wanted;
    for (const std::string& name : names) {
      Slot* known = slot(name);
      wanted.push_back(known ? std::move(*known) : Slot{name, Buffer<T>(parameters.size())});
    }
    slots = std::move(wanted);
  }
  Slot* slot(const std::string& name) {
    for (Slot& s : slots)
      if (s.name == name) return &s;
    return nullptr;
  }
  // A parameter's momentum, which is SGD's one slot; nullptr without.
  T* velocity(int p) { return sgd.momentum != 0 ? at(slots.front().block, p) : nullptr; }

  Buffer<T> parameters, gradients, state;
  std::vector<Slot> slots;
  Sgd sgd;
  PackedWeights packed;  // of mixed precision; otherwise empty

 private:
  Layout layout_, state_layout_;
  std::vector<Buffer<T>> transposed_;
  std::vector<char> stale_;
};

}  // namespace fp
