// An instance: the numbers of one network. One contiguous block per kind (parameters, gradients, momentum), all
// with the same offsets; rows of at least kPadFrom columns are padded to whole cache lines; pads are always zero.
#pragma once

#include <cstring>
#include <vector>

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

template <class T>
class Instance {
 public:
  struct Slice {
    int64_t offset, rows, cols, row;
    int64_t extent() const { return rows * row; }
  };

  explicit Instance(const Program& program) {
    int64_t at = 0;
    for (const Parameter& p : program.parameters) {
      Slice s{at, p.rows, p.cols, padded_row<T>(p.cols)};
      slices_.push_back(s);
      at += (s.extent() + kLine<T> - 1) / kLine<T> * kLine<T>;
    }
    parameters = Buffer<T>(at);
    transposed_.resize(slices_.size());
    stale_.assign(slices_.size(), 0);
    // Only a product whose input is itself computed sends a gradient back through its weights.
    for (const Operation& op : program.operations)
      if (op.weights >= 0 && op.input != 0 && transposed_[op.weights].size() == 0) {
        const Slice& s = slices_[op.weights];
        transposed_[op.weights] = Buffer<T>(s.cols * padded_row<T>(s.rows));
        stale_[op.weights] = 1;
      }
  }

  const Slice& slice(int p) const { return slices_[p]; }
  int count() const { return static_cast<int>(slices_.size()); }
  T* at(Buffer<T>& block, int p) { return block.data() + slices_[p].offset; }

  ops::Matrix<const T> weights(int p) const {
    const Slice& s = slices_[p];
    return {parameters.data() + s.offset, s.rows, s.cols, s.row};
  }
  const T* vector(int p) const { return p < 0 ? nullptr : parameters.data() + slices_[p].offset; }

  // w transposed, (out, in): kept in step with w by every write.
  ops::Matrix<const T> transposed(int p) const {
    const Slice& s = slices_[p];
    return {transposed_[p].data(), s.cols, s.rows, padded_row<T>(s.rows)};
  }
  bool has_transposed(int p) const { return transposed_[p].size() > 0; }
  void transpose_part(const Kernels<T>& k, int p, Range rows, Range cols) {
    const Slice& s = slices_[p];
    const int64_t to = padded_row<T>(s.rows);
    if (rows.size() > 0 && cols.size() > 0)
      k.transpose(rows.size(), cols.size(), parameters.data() + s.offset + rows.begin * s.row + cols.begin, s.row,
                  transposed_[p].data() + cols.begin * to + rows.begin, to);
  }
  void mark_written(int p) { stale_[p] = has_transposed(p); }
  void refresh_transposed(const Kernels<T>& k) {
    for (int p = 0; p < count(); ++p)
      if (stale_[p]) {
        transpose_part(k, p, {0, slices_[p].rows}, {0, slices_[p].cols});
        stale_[p] = 0;
      }
  }

  void copy_out(const Buffer<T>& block, int p, T* to) const {
    const Slice& s = slices_[p];
    for (int64_t i = 0; i < s.rows; ++i)
      std::memcpy(to + i * s.cols, block.data() + s.offset + i * s.row, sizeof(T) * static_cast<std::size_t>(s.cols));
  }
  void copy_in(Buffer<T>& block, int p, const T* from) {
    const Slice& s = slices_[p];
    for (int64_t i = 0; i < s.rows; ++i)
      std::memcpy(block.data() + s.offset + i * s.row, from + i * s.cols, sizeof(T) * static_cast<std::size_t>(s.cols));
  }
  // Blocks that not every run needs are made when first asked for.
  void need(Buffer<T>& block) {
    if (block.size() != parameters.size()) block = Buffer<T>(parameters.size());
  }

  Buffer<T> parameters, gradients, momentum;
  Sgd sgd;

 private:
  std::vector<Slice> slices_;
  std::vector<Buffer<T>> transposed_;
  std::vector<char> stale_;
};

}  // namespace fp
