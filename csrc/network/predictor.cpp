#include "network/predictor.hpp"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <utility>

#include "network/run.hpp"
#include "network/workspace.hpp"
#include "network/worth.hpp"
#include "runtime/claims.hpp"
#include "runtime/fpstate.hpp"

namespace fp {

namespace {

// With fewer rows than this per thread, packing the weights anew on each thread is no longer cheap.
constexpr int64_t kRowsPerThread = 96;
// Rows that a thread claims at least, if there are so many: all weights pass by for each claim.
constexpr int64_t kLeastClaimed = 128;

// Weights of so many bytes come from memory, or from the outer cache, and reading them takes as long as the arithmetic
// of so many rows: a team shares it, unless other callers keep the CPUs busy. From the outer cache that is soon over,
// and worth a team only while its threads are awake: where calls follow each other within kAwake. After kForgotten
// nobody is taken to be still at it.
constexpr double kFarBytes = 8 << 20, kOuterBytes = 2 << 20;
constexpr int64_t kRowsRead = 8;
constexpr std::chrono::milliseconds kAwake{1}, kForgotten{100};

}  // namespace

template <class T>
void Predictor<T>::read(int parameter, T* to) const {
  const Copy& c = copies_[static_cast<std::size_t>(parameter)];
  each_part(c.parted, {0, c.cols}, [&](Range cols, int64_t origin, int64_t row) {
    for (int64_t i = 0; i < c.parted.rows; ++i)
      std::memcpy(to + i * c.cols + cols.begin, c.data + origin + i * row + cols.begin,
                  sizeof(T) * static_cast<std::size_t>(cols.size()));
  });
}

template <class T>
typename Predictor<T>::Need Predictor<T>::need(const Kernels<T>& k, int64_t rows) const {
  const auto lines = [](int64_t elements) { return (elements + 15) / 16 * 16; };
  Need most{0, 0};
  for (const Step& s : steps_) {
    if (s.kind != OperationKind::dense) continue;
    if (products_) {
      const int64_t item = static_cast<int64_t>(sizeof(T));
      most.scratch = std::max(most.scratch, lines(products_->scratch(rows, s.out, s.in)));
      most.room = std::max(most.room, lines((products_->left_bytes(rows, s.in) + item - 1) / item));
    } else {
      most.scratch = std::max(most.scratch, lines(k.gemm_scratch(rows, copies_[s.weights].parted.part, s.in)));
    }
  }
  return most;
}

template <class T>
void Predictor<T>::run_row(const Place<const T>* x, const Place<T>* y, T* slots, T* products) const {
  const Kernels<T>& k = kernels_in_use();
  for (const Step& s : steps_) {
    const T* from = s.from < 0 ? x[~s.from].data : slots + s.from * slot_row_;
    T* to = slots + (s.to < 0 ? slots_ + ~s.to : s.to) * slot_row_ + s.to_begin;
    if (s.kind == OperationKind::dense && products_) {
      dense16(s, 1, {from, s.in}, to, s.out, {0, s.out}, products, row_need_);
    } else if (s.kind == OperationKind::dense) {
      k.dense_row({s.in, s.out, from, copies_[s.weights].data, copies_[s.weights].parted.row,
                   s.bias < 0 ? nullptr : copies_[s.bias].data, s.activation, s.alpha, to});
    } else {
      elementwise(k, s, 1, {from, s.in}, to, s.to_row);
    }
  }
  slots += slots_ * slot_row_;
  for (std::size_t i = 0; i < outputs_.size(); ++i, slots += slot_row_)
    std::memcpy(y[i].data, slots, sizeof(T) * static_cast<std::size_t>(outputs_[i]));
}

template <class T>
void Predictor<T>::elementwise(const Kernels<T>& k, const Step& s, int64_t rows, Place<const T> from, T* to,
                               int64_t to_row) {
  if (s.kind == OperationKind::activation && s.activation == Activation::softmax)
    return k.softmax_forward(rows, s.out, from.data, from.row, to, to_row);
  for (int64_t i = 0; i < rows; ++i, from.data += from.row, to += to_row) {
    if (s.kind == OperationKind::add)
      k.add(s.out, from.data, to);
    else if (s.kind == OperationKind::multiply)
      k.multiply(s.out, from.data, to);
    else
      k.activation_forward(s.activation, s.alpha, s.out, from.data, to);
  }
}

template <class T>
void Predictor<T>::dense16(const Step& s, int64_t rows, Place<const T> from, T* to, int64_t to_row, Range cols,
                           T* scratch, Need need) const {
  if constexpr (kMixes<T>) {
    if (cols.size() <= 0) return;
    T* room = scratch + need.scratch;
    const Range all{0, rows};
    ops::pack_slab16(*products_, {from.data, rows, s.in, from.row}, all, room);
    ops::dense_forward16(*products_, {room, all}, s.in, packed_[s.weights].data(),
                         s.bias < 0 ? nullptr : copies_[s.bias].data, s.activation, s.alpha, nullptr, 0,
                         {{to, rows, s.out, to_row}}, all, cols, scratch);
  }
}

// Columns of a dense operation, or all of another.
template <class T>
void Predictor<T>::step(const Step& s, const Batch& batch, Range cols, T* scratch, Need need) const {
  const Kernels<T>& k = batch.kernels;
  const int64_t n = batch.rows.size(), slot = slot_size(n);
  const Place<const T> from = s.from < 0 ? batch.x[~s.from].from(batch.rows.begin)
                                         : Place<const T>{batch.slots + s.from * slot, batch_row<T>(s.in)};
  const Place<T> whole =
      s.to < 0 ? batch.y[~s.to].from(batch.rows.begin) : Place<T>{batch.slots + s.to * slot, batch_row<T>(s.to_row)};
  T* to = whole.data + s.to_begin;
  if (s.kind != OperationKind::dense) return elementwise(k, s, n, from, to, whole.row);
  if (products_) return dense16(s, n, from, to, whole.row, cols, scratch, need);
  const Copy& w = copies_[s.weights];
  const T* b = s.bias < 0 ? nullptr : copies_[s.bias].data;
  each_part(w.parted, cols, [&](Range some, int64_t origin, int64_t row) {
    // Into whole registers of a slot, or of the caller's.
    if (n == 1 && (s.to >= 0 || some.size() % kPad == 0))
      return k.dense_row({s.in, some.size(), from.data, w.data + origin + some.begin, row, b ? b + some.begin : nullptr,
                          s.activation, s.alpha, to + some.begin});
    ops::dense_forward<T>(k, ops::Matrix<const T>{from.data, n, s.in, from.row},
                          {w.data + origin, s.in, s.out, row, true}, b, s.activation, s.alpha, nullptr, 0,
                          {to, n, s.out, whole.row, s.to >= 0}, {0, n}, some, scratch);
  });
}

template <class T>
void Predictor<T>::run_rows(const Batch& batch, T* scratch, Need need) const {
  for (const Step& s : steps_) step(s, batch, {0, s.out}, scratch, need);
}

template <class T>
void Predictor<T>::run_columns(Team& team, const Batch& batch, T* scratch, Need need) const {
  for (const Step& s : steps_) {
    if (s.kind == OperationKind::dense)
      step(s, batch, split(s.out, team.rank, team.size, std::min<int64_t>(64, copies_[s.weights].parted.part)), scratch,
           need);
    else if (team.rank == 0)
      step(s, batch, {0, s.out}, scratch, need);
    team.barrier();
  }
}

template <class T>
template <int64_t room>
void Predictor<T>::run_on_stack(const Place<const T>* x, const Place<T>* y) const {
  alignas(64) T slots[kStack], products[room];
  FpState state;
  run_row(x, y, slots, products);
}

template <class T>
void Predictor<T>::run_small(const Place<const T>* x, const Place<T>* y) const {
  products_ ? run_on_stack<kStackRoom>(x, y) : run_on_stack<1>(x, y);
}

// A run that reads large weights, and whether others may help with it. What it leaves behind is no more than a hint,
// which a fork in the middle of a run may make wrong for a moment.
template <class T>
class Predictor<T>::Reader {
 public:
  Reader(const Predictor& self, double bytes) : self_(bytes >= kOuterBytes ? &self : nullptr) {
    if (!self_) return;
    const Clock::rep now = ticks(), before = self_->begun_.exchange(now, std::memory_order_relaxed);
    const bool alone = before == 0 || Clock::duration(now - before) > kForgotten;
    const bool awake = Clock::duration(now - self_->ended_.load(std::memory_order_relaxed)) < kAwake;
    shares_ = alone && (awake || bytes >= kFarBytes);
  }
  ~Reader() {
    if (!self_) return;
    self_->ended_.store(ticks(), std::memory_order_relaxed);
    self_->begun_.store(0, std::memory_order_relaxed);
  }
  Reader(const Reader&) = delete;
  bool shares() const { return shares_; }

 private:
  static Clock::rep ticks() { return Clock::now().time_since_epoch().count(); }
  const Predictor* self_;
  bool shares_ = false;
};

template <class T>
void Predictor<T>::run_many(const Place<const T>* x, const Place<T>* y, int64_t rows, int threads) const {
  const double bytes = flop_ / 2 * (products_ ? 2 : static_cast<double>(sizeof(T)));
  const Reader reader(*this, bytes);
  const double worth = static_cast<double>(reader.shares() ? std::max(rows, kRowsRead) : rows);
  const double most = std::max(threads, 1);
  int team = static_cast<int>(std::clamp(flop_ * worth / kFlopPerThread, 1.0, most));
  // With few rows threads share columns where the layers are worth a barrier each.
  const bool by_columns = team > 1 && rows < kRowsPerThread * team && widest_flop_ * worth >= kFlopPerThread * 2;
  if (!by_columns) team = static_cast<int>(std::min<int64_t>(team, (rows + 15) / 16));
  const int64_t share = by_columns ? rows : (rows + team - 1) / team;
  const int64_t chunk = std::min(share, products_ ? kMostPacked : rows_at_a_time(slot_row_));
  const Kernels<T>& k = kernels_in_use();
  const Need each = need(k, chunk);
  const int64_t arena = slots_ * slot_size(chunk);
  const int64_t size = by_columns ? arena + team * each.size() : team * (arena + each.size());
  std::unique_ptr<Buffer<T>> memory = spares_.take([&](const Buffer<T>& spare) { return spare.size() >= size; });
  if (!memory) memory = std::make_unique<Buffer<T>>(size, Pages::small);
  T* const arenas = memory->data();
  Claims claims(rows, team, {8, kLeastClaimed, chunk});
  parallel_run(team, [&](Team& t) {
    T* mine = arenas + (by_columns ? arena + t.rank * each.size() : t.rank * (arena + each.size()) + arena);
    T* slots = by_columns ? arenas : mine - arena;
    const auto batch = [&](Range r) { return Batch{k, x, y, r, slots}; };
    if (by_columns) {
      for (int64_t at = 0; at < rows; at += chunk) run_columns(t, batch({at, std::min(at + chunk, rows)}), mine, each);
    } else {
      for (Range r = claims.next(t.rank).range; r.size() > 0; r = claims.next(t.rank).range)
        run_rows(batch(r), mine, each);
    }
  });
  spares_.leave(std::move(memory));
}

template class Predictor<float>;
template class Predictor<double>;

}  // namespace fp
