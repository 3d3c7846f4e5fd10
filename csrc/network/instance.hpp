// An instance: the numbers of one network. One contiguous block per kind (parameters, gradients, each of the
// optimizer's slots), all with the same offsets, and one for the state that is not trained; rows of at least kPadFrom
// columns are padded to whole cache lines, which products finish by whole registers; pads are zero (NaN once a learning
// rate is infinite in T), and no result depends on them.
//
// Large kernels and their transposes are stored in parts (parted.hpp), whose lines follow each other as products read
// and write them. In rows of thousands of bytes each line would lie on a page of its own, out of reach of what the
// processor fetches ahead, and compete with the others for the same few cache sets.
//
// Where threads own columns of a kernel, these lie together in memory, too: its shares, one after the other, each in
// parts. Side by side, rows of both would alternate, and what the processor fetches ahead of one thread would be taken
// from the other's cache over and over (up to 30 ns for every line of it).
#pragma once

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "network/mixed.hpp"
#include "network/parted.hpp"
#include "network/program.hpp"
#include "network/way.hpp"
#include "ops/dense.hpp"
#include "runtime/memory.hpp"

namespace fp {

template <class T>
inline constexpr int64_t kLine = static_cast<int64_t>(kAlignment / sizeof(T));
inline constexpr int64_t kPadFrom = 9;

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
  int64_t part;  // columns of the parts it is stored in; row: whole
  int64_t extent() const { return rows * row; }
  bool padded() const { return cols >= kPadFrom; }
  int64_t cols_in(Range share) const { return std::min(share.end, cols) - share.begin; }  // without pads
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
    const int64_t row = padded_row<T>(p.cols);
    const Slice s{layout.size, p.rows, p.cols, row, row};
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
    for (Slice& s : layout_.slices)
      s.part = parted_if_large(s.rows, s.row, sizeof(T), program.mixed ? kMixedPartColumns : kPartColumns).part;
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
        transposed_[op.weights] = Buffer<T>(transposed_slice(s).extent());
        stale_[op.weights] = 1;
      }
    }
  }

  const Layout& state_layout() const { return state_layout_; }
  const Slice& slice(int p) const { return layout_.slices[p]; }
  int count() const { return static_cast<int>(layout_.slices.size()); }
  T* at(Buffer<T>& block, int p) { return block.data() + layout_.slices[p].offset; }

  // Calls f(columns, origin, row) for each part of a parameter that has some of these columns: element (i, j) lies at
  // origin + i * row + j of a block.
  template <class F>
  void each_part(int p, Range cols, F&& f) const {
    each_part(slice(p), shares_, cols, f);
  }
  // The same with the part's weights.
  template <class F>
  void each_weights(int p, Range cols, F&& f) const {
    const Slice& s = slice(p);
    each_part(p, cols, [&](Range c, int64_t origin, int64_t row) {
      f(c, ops::Matrix<const T>{parameters.data() + origin, s.rows, s.cols, row, s.padded()});
    });
  }
  // Calls f(columns, share, origin) for each share of its columns that has some of these: a matrix with parts of its
  // own, which begins at origin of a block.
  template <class F>
  void each_share(int p, Range cols, F&& f) const {
    each_share(slice(p), shares_, cols, f);
  }
  int shares() const { return shares_; }
  // Kernels that are wide enough are stored in so many shares from now on. Gradients are lost: the beginning of their
  // memory serves as the space in between, and other memory, untouched, takes its place.
  void arrange(int shares) {
    if (shares == shares_) return;
    need(gradients);
    Buffer<T> untouched(gradients.size());
    const Unforked guard;
    for (int p = 0; p < count(); ++p) {
      const Slice& s = slice(p);
      if (shares_of(s, shares) == shares_of(s, shares_)) continue;
      const auto move = [&](Buffer<T>& block) {
        copy_out(block, s, shares_, gradients.data());
        clear(block, p);
        copy_in(block, s, shares, gradients.data());
      };
      move(parameters);
      for (Slot& slot : slots) move(slot.block);
    }
    shares_ = shares;
    gradients = std::move(untouched);
  }

  const T* vector(int p) const { return p < 0 ? nullptr : parameters.data() + slice(p).offset; }

  // w transposed, (out, in): kept in step with w by every write. Calls f(inputs, part) for each part of it that has
  // some of these inputs.
  template <class F>
  void each_transposed(int p, Range inputs, F&& f) const {
    const Slice t = transposed_slice(slice(p));
    each_part(t, 1, inputs, [&](Range some, int64_t origin, int64_t row) {
      f(some, ops::Matrix<const T>{transposed_[p].data() + origin, t.rows, t.cols, row, t.padded()});
    });
  }
  bool has_transposed(int p) const { return transposed_[p].size() > 0; }
  void transpose_part(const Kernels<T>& k, int p, Range rows, Range cols) {
    each_part(transposed_slice(slice(p)), 1, rows, [&](Range r, int64_t origin, int64_t row) {
      each_weights(p, cols, [&](Range c, ops::Matrix<const T> w) {
        k.transpose(r.size(), c.size(), w.data + r.begin * w.row + c.begin, w.row,
                    transposed_[p].data() + origin + c.begin * row + r.begin, row);
      });
    });
  }
  // A part of the weights was written: renews the packed copies of mixed precision.
  void pack_part(int p, Range rows, Range cols) {
    if constexpr (kMixes<T>) {
      if (packed.has(p)) each_weights(p, cols, [&](Range c, ops::Matrix<const T> w) { packed.pack(p, w, rows, c); });
    }
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

  // Becomes what `other`, an instance of the same program, is. Memory is there once it has been made for it.
  void make_room(const Instance& other) {
    need(gradients);
    std::vector<std::string> names;
    for (const Slot& slot : other.slots) names.push_back(slot.name);
    set_slots(names);
  }
  void copy(const Instance& other) {
    const auto take = [](const Buffer<T>& from, Buffer<T>& to) {
      std::memcpy(to.data(), from.data(), sizeof(T) * static_cast<std::size_t>(from.size()));
    };
    take(other.parameters, parameters);
    for (std::size_t i = 0; i < slots.size(); ++i) take(other.slots[i].block, slots[i].block);
    for (std::size_t p = 0; p < transposed_.size(); ++p)
      if (transposed_[p].size() > 0) take(other.transposed_[p], transposed_[p]);
    stale_ = other.stale_;
    sgd = other.sgd;
    shares_ = other.shares_;
  }

  // Unpadded arrays out of a block and into it: of a parameter, and of state, which is never in shares.
  void copy_out(const Buffer<T>& block, int p, T* to) const { copy_out(block, slice(p), shares_, to); }
  void copy_in(Buffer<T>& block, int p, const T* from) { copy_in(block, slice(p), shares_, from); }
  static void copy_out(const Buffer<T>& block, const Slice& s, int shares, T* to) {
    each_part(s, shares, {0, s.cols}, [&](Range c, int64_t origin, int64_t row) {
      for (int64_t i = 0; i < s.rows; ++i)
        std::memcpy(to + i * s.cols + c.begin, block.data() + origin + i * row + c.begin,
                    sizeof(T) * static_cast<std::size_t>(c.size()));
    });
  }
  static void copy_in(Buffer<T>& block, const Slice& s, int shares, const T* from) {
    each_part(s, shares, {0, s.cols}, [&](Range c, int64_t origin, int64_t row) {
      for (int64_t i = 0; i < s.rows; ++i)
        std::memcpy(block.data() + origin + i * row + c.begin, from + i * s.cols + c.begin,
                    sizeof(T) * static_cast<std::size_t>(c.size()));
    });
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
    wanted.reserve(names.size());
    for (const std::string& name : names)
      wanted.push_back({name, slot(name) ? Buffer<T>() : Buffer<T>(parameters.size())});
    for (Slot& s : wanted)  // which needs no memory
      if (Slot* known = slot(s.name)) s.block = std::move(known->block);
    slots = std::move(wanted);
  }
  Slot* slot(const std::string& name) {
    for (Slot& s : slots)
      if (s.name == name) return &s;
    return nullptr;
  }
  // A parameter's momentum, which is SGD's one slot; nullptr without.
  T* velocity_at(int64_t offset) { return sgd.momentum != 0 ? slots.front().block.data() + offset : nullptr; }

  Buffer<T> parameters, gradients, state;
  std::vector<Slot> slots;
  Sgd sgd;
  PackedWeights packed;  // of mixed precision; otherwise empty

 private:
  static int shares_of(const Slice& s, int shares) {
    return s.rows > 1 && Way::is_wide(s.cols, shares, kLine<T>) ? shares : 1;
  }
  template <class F>
  static void each_share(const Slice& s, int shares, Range cols, F&& f) {
    shares = shares_of(s, shares);
    for (int q = 0; q < shares; ++q) {
      const Range part = shares == 1 ? Range{0, s.row} : split(s.row, q, shares, kLine<T>);
      const Range c{std::max(part.begin, cols.begin), std::min(part.end, cols.end)};
      if (c.size() > 0) f(c, part, s.offset + s.rows * part.begin);
    }
  }
  template <class F>
  static void each_part(const Slice& s, int shares, Range cols, F&& f) {
    each_share(s, shares, cols, [&](Range c, Range share, int64_t origin) {
      const int64_t b = share.begin;
      fp::each_part({s.rows, share.size(), std::min(s.part, share.size())}, {c.begin - b, c.end - b},
                    [&](Range some, int64_t within, int64_t row) {
                      f(Range{some.begin + b, some.end + b}, origin + within - b, row);
                    });
    });
  }
  Slice transposed_slice(const Slice& s) const {
    const int64_t row = padded_row<T>(s.rows);
    return {0, s.cols, s.rows, row, parted_if_large(s.cols, row, sizeof(T), kPartColumns).part};
  }

  Layout layout_, state_layout_;
  int shares_ = 1;
  std::vector<Buffer<T>> transposed_;
  std::vector<char> stale_;
};

}  // namespace fp
