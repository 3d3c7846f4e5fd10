#include "network/predictor.hpp"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <utility>

#include "network/run.hpp"
#include "network/workspace.hpp"
#include "network/worth.hpp"
#include "runtime/fpstate.hpp"

namespace fp {

namespace {

// With fewer rows than this per thread, packing the weights anew on each thread is no longer cheap.
constexpr int64_t kRowsPerThread = 96;

// Weights of so many bytes come from memory, or from the outer cache, and reading them takes as long as the arithmetic
// of so many rows: a team shares it, unless other callers keep the CPUs busy. From the outer cache that is soon over,
// and worth a team only while its threads are awake: where calls follow each other within kAwake. After kForgotten
// nobody is taken to be still at it.
constexpr double kFarBytes = 8 << 20, kOuterBytes = 2 << 20;
constexpr int64_t kRowsRead = 8;
constexpr std::chrono::milliseconds kAwake{1}, kForgotten{100};

}  // namespace

template <class T>
bool Predictor<T>::can_run(const Program& program) {
  return program.outputs.size() == 1 &&
         std::none_of(program.operations.begin(), program.operations.end(), [](const Operation& op) {
           return op.kind == OperationKind::python || op.kind == OperationKind::columns;
         });
}

template <class T>
Predictor<T>::Predictor(const Program& program, const Instance<T>& instance, Occupancy::Changes changes)
    : inputs_(program.widths[0]),
      outputs_(program.widths[static_cast<std::size_t>(program.output(0))]),
      changes_(std::move(changes)),
      changes_then_(changes_->load(std::memory_order_acquire)) {
  int64_t size = 0;
  for (const Parameter& p : program.parameters) size += p.rows * padded(p.cols);
  block_ = Buffer<T>(size);
  T* at = block_.data();
  for (int p = 0; p < static_cast<int>(program.parameters.size()); ++p) {
    const auto& s = instance.slice(p);
    const int64_t row = padded(s.cols);
    copies_.push_back({at, s.cols, parted_if_large(s.rows, row, sizeof(T), program.mixed ? row : kPartColumns)});
    instance.each_weights(p, {0, s.cols}, [&](Range some, ops::Matrix<const T> w) {
      each_part(copies_.back().parted, some, [&](Range cols, int64_t origin, int64_t to_row) {
        for (int64_t i = 0; i < s.rows; ++i)
          std::memcpy(at + origin + i * to_row + cols.begin, w.data + i * w.row + cols.begin,
                      sizeof(T) * static_cast<std::size_t>(cols.size()));
      });
    });
    at += s.rows * padded(s.cols);
  }

  if constexpr (std::is_same_v<T, float>) {
    if (program.mixed) {
      products_ = &products16();
      kernels_ = &kernels<T>();
      packed_.resize(copies_.size());
      for (const Operation& op : program.operations) {
        if (op.kind != OperationKind::dense || packed_[op.weights].size() > 0) continue;
        const Copy& w = copies_[op.weights];
        packed_[op.weights] = Buffer<char>(products_->right_bytes(w.parted.rows, w.cols));
        const int64_t rows = w.parted.rows;
        products_->pack_right({w.data, w.parted.row, rows, w.cols, 0, rows, 0, w.cols, packed_[op.weights].data()});
      }
    }
  }

  // What each value is once dropout has gone, and when it is last read.
  const auto& ops = program.operations;
  std::vector<int> is(program.widths.size(), 0), last(program.widths.size(), -1);
  for (std::size_t v = 0; v < is.size(); ++v) is[v] = static_cast<int>(v);
  for (const Operation& op : ops)
    if (op.kind == OperationKind::dropout) is[op.output] = is[op.input()];
  const int output = is[program.output(0)];
  for (std::size_t i = 0; i < ops.size(); ++i)
    if (ops[i].kind != OperationKind::dropout)
      for (int v : ops[i].inputs) last[is[v]] = static_cast<int>(i);

  std::vector<int> slot(program.widths.size(), kInput);
  std::vector<char> taken;
  int64_t widest = 0;
  for (std::size_t i = 0; i < ops.size(); ++i) {
    const Operation& op = ops[i];
    if (op.kind == OperationKind::dropout || (last[op.output] < 0 && op.output != output)) continue;
    const int64_t out = program.widths[op.output];
    // Where the caller wants the result lies only what nobody reads.
    int to = kOutput;
    if (op.output != output || last[op.output] >= 0) {
      to = static_cast<int>(std::find(taken.begin(), taken.end(), 0) - taken.begin());
      if (to == static_cast<int>(taken.size())) taken.push_back(0);
      taken[to] = 1;
      widest = std::max(widest, out);
    }
    slot[op.output] = to;
    Step s{};
    s.kind = OperationKind::activation;
    s.weights = s.bias = -1;
    s.to = to;
    s.to_row = out;
    if (op.kind == OperationKind::dense || op.kind == OperationKind::activation) {
      s.kind = op.kind;
      s.activation = op.activation;
      s.alpha = static_cast<T>(op.alpha);
      s.in = program.widths[op.input()];
      s.out = out;
      s.from = slot[is[op.input()]];
      if (op.kind == OperationKind::dense) {
        s.weights = op.weights;
        s.bias = op.bias;
        const double flop = 2.0 * static_cast<double>(s.in) * static_cast<double>(out);
        widest_flop_ = std::max(widest_flop_, flop);
        flop_ += flop;
      }
      flop_ += kFlopPerElement * static_cast<double>(out);
      steps_.push_back(s);
    } else {
      for (std::size_t j = 0; j < op.inputs.size(); ++j) {
        if (j > 0 && op.kind != OperationKind::concatenate) s.kind = op.kind;
        s.in = s.out = program.widths[op.inputs[j]];
        s.from = slot[is[op.inputs[j]]];
        steps_.push_back(s);
        if (op.kind == OperationKind::concatenate) s.to_begin += s.out;
        flop_ += kFlopPerElement * static_cast<double>(s.out);
      }
    }
    for (int v : op.inputs)
      if (last[is[v]] == static_cast<int>(i) && slot[is[v]] >= 0 && is[v] != output) taken[slot[is[v]]] = 0;
  }
  slots_ = static_cast<int>(taken.size());
  // One more, where dense_row may write beyond the caller's columns.
  slot_row_ = batch_row<T>(padded(std::max(widest, outputs_)));
  row_need_ = need(1);
  row_is_small_ =
      (slots_ + 1) * slot_row_ <= kStack &&
      (products_ ? row_need_.size() <= kStackRoom : std::all_of(steps_.begin(), steps_.end(), [&](const Step& s) {
        return s.kind != OperationKind::dense || copies_[s.weights].parted.is_whole();
      }));
  // The result may be a value that no step writes to the caller: the input itself, or one that others read too.
  if (steps_.empty() || steps_.back().to != kOutput) {
    Step copy{};
    copy.kind = OperationKind::activation;
    copy.activation = Activation::linear;
    copy.weights = copy.bias = -1;
    copy.in = copy.out = copy.to_row = outputs_;
    copy.from = slot[output];
    copy.to = kOutput;
    if (copy.from != kOutput) steps_.push_back(copy);
  }
}

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
typename Predictor<T>::Need Predictor<T>::need(int64_t rows) const {
  const auto lines = [](int64_t elements) { return (elements + 15) / 16 * 16; };
  Need most{0, 0};
  for (const Step& s : steps_) {
    if (s.kind != OperationKind::dense) continue;
    if (products_) {
      const int64_t item = static_cast<int64_t>(sizeof(T));
      most.scratch = std::max(most.scratch, lines(products_->scratch(rows, s.out, s.in)));
      most.room = std::max(most.room, lines((products_->left_bytes(rows, s.in) + item - 1) / item));
    } else {
      most.scratch =
          std::max(most.scratch, lines(kernels<T>().gemm_scratch(rows, copies_[s.weights].parted.part, s.in)));
    }
  }
  return most;
}

template <class T>
void Predictor<T>::run_row(const T* x, T* y, T* slots, T* products) const {
  const Kernels<T>& k = kernels_in_use();
  for (const Step& s : steps_) {
    const T* from = s.from == kInput ? x : slots + s.from * slot_row_;
    T* to = slots + (s.to == kOutput ? slots_ : s.to) * slot_row_ + s.to_begin;
    if (s.kind == OperationKind::dense && products_) {
      dense16(s, 1, {from, s.in}, to, s.out, {0, s.out}, products, row_need_);
    } else if (s.kind == OperationKind::dense) {
      k.dense_row({s.in, s.out, from, copies_[s.weights].data, copies_[s.weights].parted.row,
                   s.bias < 0 ? nullptr : copies_[s.bias].data, s.activation, s.alpha, to});
    } else {
      elementwise(k, s, 1, {from, s.in}, to, s.to_row);
    }
  }
  std::memcpy(y, slots + slots_ * slot_row_, sizeof(T) * static_cast<std::size_t>(outputs_));
}

template <class T>
void Predictor<T>::elementwise(const Kernels<T>& k, const Step& s, int64_t rows, Place from, T* to, int64_t to_row) {
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
void Predictor<T>::dense16([[maybe_unused]] const Step& s, [[maybe_unused]] int64_t rows, [[maybe_unused]] Place from,
                           [[maybe_unused]] T* to, [[maybe_unused]] int64_t to_row, [[maybe_unused]] Range cols,
                           [[maybe_unused]] T* scratch, [[maybe_unused]] Need need) const {
  if constexpr (std::is_same_v<T, float>) {
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
  const Kernels<T>& k = kernels_in_use();
  const int64_t slot = slot_size(batch.n);
  const Place from =
      s.from == kInput ? Place{batch.x, inputs_} : Place{batch.slots + s.from * slot, batch_row<T>(s.in)};
  const int64_t to_row = s.to == kOutput ? outputs_ : batch_row<T>(s.to_row);
  T* to = (s.to == kOutput ? batch.y : batch.slots + s.to * slot) + s.to_begin;
  if (s.kind != OperationKind::dense) return elementwise(k, s, batch.n, from, to, to_row);
  if (products_) return dense16(s, batch.n, from, to, to_row, cols, scratch, need);
  const Copy& w = copies_[s.weights];
  const T* b = s.bias < 0 ? nullptr : copies_[s.bias].data;
  each_part(w.parted, cols, [&](Range some, int64_t origin, int64_t row) {
    // Into whole registers of a slot, or of the caller's.
    if (batch.n == 1 && (s.to != kOutput || some.size() % kPad == 0))
      return k.dense_row({s.in, some.size(), from.data, w.data + origin + some.begin, row, b ? b + some.begin : nullptr,
                          s.activation, s.alpha, to + some.begin});
    ops::dense_forward<T>(k, {from.data, batch.n, s.in, from.row}, {w.data + origin, s.in, s.out, row}, b, s.activation,
                          s.alpha, nullptr, 0, {to, batch.n, s.out, to_row}, {0, batch.n}, some, scratch);
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
void Predictor<T>::run_small(const T* x, T* y) const {
  alignas(64) T slots[kStack], products[room];
  FpState state;
  run_row(x, y, slots, products);
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
void Predictor<T>::run(const T* x, int64_t rows, T* y, int threads) const {
  if (rows <= 0) return;
  if (rows == 1 && row_is_small_) return products_ ? run_small<kStackRoom>(x, y) : run_small<1>(x, y);
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
  const Need each = need(chunk);
  const int64_t arena = slots_ * slot_size(chunk);
  struct Job {
    const Predictor& self;
    const T* x;
    int64_t rows, chunk, arena;
    Need each;
    T* y;
    T* memory;
    bool by_columns;
  };
  const int64_t size = by_columns ? arena + team * each.size() : team * (arena + each.size());
  std::unique_ptr<Buffer<T>> memory = spares_.take([&](const Buffer<T>& spare) { return spare.size() >= size; });
  if (!memory) memory = std::make_unique<Buffer<T>>(size, Pages::small);
  Job job{*this, x, rows, chunk, arena, each, y, memory->data(), by_columns};
  parallel_run(
      team,
      [](Team& t, void* p) {
        const Job& j = *static_cast<Job*>(p);
        const Predictor& self = j.self;
        const int64_t size = j.each.size();
        T* mine = j.memory + (j.by_columns ? j.arena + t.rank * size : t.rank * (j.arena + size) + j.arena);
        T* slots = j.by_columns ? j.memory : mine - j.arena;
        const Range r = j.by_columns ? Range{0, j.rows} : split(j.rows, t.rank, t.size, 8);
        for (int64_t at = r.begin; at < r.end; at += j.chunk) {
          const Batch batch{j.x + at * self.inputs_, std::min(j.chunk, r.end - at), j.y + at * self.outputs_, slots};
          if (j.by_columns)
            self.run_columns(t, batch, mine, j.each);
          else
            self.run_rows(batch, mine, j.each);
        }
      },
      &job);
  spares_.leave(std::move(memory));
}

template class Predictor<float>;
template class Predictor<double>;

}  // namespace fp
