// One run of a program over a batch, as the members of a team execute it. Every function is called by all threads of
// the team with the same arguments; each does its part, and waits for the others where it needs what they have made
// (hazards.hpp). How the work is cut (way.hpp) changes no bits.
#pragma once

#include <atomic>
#include <chrono>
#include <memory>

#include "network/hazards.hpp"
#include "network/heads.hpp"
#include "network/instance.hpp"
#include "network/metrics.hpp"
#include "network/plan.hpp"
#include "network/way.hpp"
#include "network/workspace.hpp"

namespace fp {

// Below this much arithmetic per thread a further thread may cost more than it brings. (On a quiet machine a second one
// gains a fifth at 0.6 MFLOP each; where its cache is far away, it makes the step three times as long: training
// measures it, see pace.hpp.)
inline constexpr double kFlopPerThread = 1.5e6;

// What ends a run early: the outside, asked at most every 20 ms and only on the calling thread, or a row that cannot be
// used. Shared by the threads of a team.
class Interrupt {
 public:
  using Clock = std::chrono::steady_clock;
  Interrupt(bool (*poll)(void*), void* context) : poll_(poll), context_(context), next_(Clock::now() + kEvery) {}
  void check(const Team& team) {
    if (team.rank != 0 || held_ || !poll_ || stopped()) return;
    const auto now = Clock::now();
    if (now < next_) return;
    next_ = now + kEvery;
    if (poll_(context_)) stop_.store(true, std::memory_order_relaxed);
  }
  bool stopped() const { return stop_.load(std::memory_order_relaxed); }
  // For rank 0: no looks for the time being. Others leave work out as soon as they see that the run is stopped, which
  // must not be before it was decided whether this step counts, and after that only if it does not.
  void hold(const Team& team, bool held) {
    if (team.rank == 0) held_ = held;
  }

  // The first position whose row number or label is out of range; INT64_MAX when there is none.
  int64_t bad_position() const { return bad_position_.load(); }
  void report_bad(int64_t position) {
    int64_t seen = bad_position_.load();
    while (position < seen && !bad_position_.compare_exchange_weak(seen, position)) {
    }
  }

 private:
  static constexpr std::chrono::milliseconds kEvery{20};
  bool (*poll_)(void*);
  void* context_;
  bool held_ = false;
  Clock::time_point next_;
  std::atomic<bool> stop_{false};
  std::atomic<int64_t> bad_position_{INT64_MAX};
};

// Rows of a batch: where they come from and, in training and evaluation, what they are judged by.
struct Sources {
  const RowSource* x = nullptr;
  std::vector<Targets> heads;
  const int64_t* index = nullptr;  // row numbers, or nullptr for 0, 1, 2, ...
  uint64_t configuration = 0;      // of the network whose heads and metrics these are for
};

// A team's threads may share one, or have a copy each, which they then lead from batch to batch on their own.
template <class T>
struct Run {
  const Program& program;
  Instance<T>* instance;  // the network's, or this thread's copy
  Workspace<T>& space;
  const Kernels<T>& kernels;
  const Plan& plan;
  Interrupt& interrupt;
  bool training = false;
  uint64_t key = 0, step = 0;

  // Set for each batch.
  const Sources* sources = nullptr;
  int64_t begin = 0;  // position of the batch's first row
  int64_t n = 0;      // its rows
  int64_t later = 0;  // those of the batch after it, as far as is known
  Way way{};
  int64_t way_rows = -1;   // for which it was chosen
  bool all_fused = false;  // every trained parameter is updated right after its gradient, and used once
  Instance<T>* master = nullptr;
  std::unique_ptr<Instance<T>>* copies = nullptr;  // of all threads but the first
  // Nobody else looks at values and gradients between the steps' operations: what is between two dense products of
  // mixed precision may exist packed alone, and inputs need not be gathered.
  bool unobserved = false;
  // Shuffled rows of the inputs may be read where they lie.
  bool scattered = false;
  // Who is done with its part of a product helps the others: all meet before each operation then.
  bool helping = false;
  int offers = 0;
  // 0 and 1 from step to step: what one thread writes before all have read what it wrote a step before has two places.
  int turn = 0;

  // Of this thread, from join() on.
  Hazards* hazards = nullptr;
  T* own_input = nullptr;  // where it gathers all rows for itself
  char* own_packed_input = nullptr;
  // Or where the caller has the batch's first row, if inputs are read there, or all of them, if they lie anywhere.
  RowsInPlace<T> in_place{};
  const T* const* each_row = nullptr;
  const T* const* next_row = nullptr;  // and those of the next batch

  struct View {
    T* data;
    int64_t row;
  };
  // A value as this run sees it: dropout passes its input on outside training. Inputs may be the caller's memory, which
  // nobody writes to; in the workspace, only gathering writes them. Those that lie anywhere are found by operand alone.
  View value(int v) const;
  // The same as an operand of a dense product: row `from` and those after it.
  ops::Rows<T> operand(int v, int64_t from = 0) const;
  View gradient(int v) const { return {space.gradients[v].data, space.gradients[v].row}; }

  // How many threads the arithmetic of a batch is worth.
  static int useful_threads(const Program& program, int64_t rows, bool training, int most);
  // The beginning of a thread's part in the run.
  void join(const Team& team) {
    hazards = &space.hazards[static_cast<std::size_t>(team.rank)];
    hazards->forget();
  }
  // Before the first batch of those from position `first` to `end`, each of so many rows, cut so: finds out whether
  // shuffled rows are to be read where they lie, on some paths only if they are mostly zeros.
  void look_at_inputs(int64_t first, int64_t end, int64_t rows, const Way& cut);
  // How so many threads cut a batch of so many rows.
  Way way_for(int64_t rows, int size) const;
  // The same for this batch. may_repeat: threads may gather the same rows, each for itself.
  void choose_way(Team& team, bool may_repeat);

  // The path of a mixed network's products; nullptr: products are of T.
  const Products16* products() const { return instance->packed.products; }
  int64_t row_grain() const { return way.blocks ? kRowBlock : products() ? products()->row_grain : kernels.tile_rows; }
  // What each thread has of a batch's matrix: its share of the rows; or of what dense products make, a part as the way
  // says, where there are columns enough.
  Region own_rows() const { return {Cut(way.size(), 1, row_grain()), {}}; }
  Region part_of(int64_t width) const {
    if (way.across == 1 || !Way::is_wide(width, way.across, kLine<T>)) return own_rows();
    return {Cut(way.down, way.across, row_grain()), Cut(way.across, 1, kLine<T>)};
  }
  // And of a parameter and its gradient.
  Region part_of(const Slice& parameter) const;
  Range rows_of(const Team& team) const { return own_rows().rows.of(team.rank, n); }

  bool keeps_value(int v) const { return unobserved && products() && space.packed.keeps_value(v); }
  char* kept_value(int v) const { return v == 0 && own_input ? own_packed_input : space.packed.value(v); }
  bool keeps_gradient(int v) const { return unobserved && products() && space.packed.keeps_gradient(v); }

  // The number under which threads keep books of a value: columns of the input are a view of it.
  int64_t value_thing(int v) const;

  void gather(Team& team);  // in gather.cpp
  void forward(Team& team, int first, int last);
  // Row losses, the outputs' gradients when asked for, and the metrics' row values.
  void judge(Team& team, const std::vector<Head>& heads, const std::vector<Metric>& metrics, bool gradients);
  // A head's predictions and targets, as its metrics see them.
  Judged<T> judged(const Head& head, std::size_t number) const;
  // The batch's row losses by a head, and row values of a metric.
  double* losses(std::size_t head) const { return space.heads[head].losses.data() + turn * space.capacity; }
  double* metric_values(std::size_t metric) const { return space.metric_values[metric].data() + turn * space.capacity; }
  T* block_sums(int64_t block) const {
    return space.block_sums.data() + (turn * space.most_blocks + block) * space.block_size;
  }
  // What divides a head's sum of losses.
  double normaliser(const Head& head, std::size_t number) const {
    return head.normaliser == Normaliser::weights && space.heads[number].weighted ? space.heads[number].total
                                                                                  : static_cast<double>(n);
  }
  // From the outputs' gradients through operations last-1 down to first, the gradients of values and those of weights:
  // into instance.gradients (added when `begun`), or straight into the parameters, the update being the product's
  // epilogue. may_stop: nothing is updated yet. This and what follows is in backward.cpp.
  void backward(Team& team, int first, int last, const BackwardPlan& pass, const std::vector<Destination>& to,
                const std::vector<char>& begun, bool may_stop);
  // Where every value's gradient has memory of its own, the gradients of all values come first, and then those of the
  // weights. Otherwise each operation's weights follow its input's gradient at once.
  bool values_first() const { return !space.gradients_shared; }
  void backward_values(Team& team, int first, int last, const BackwardPlan& pass, bool may_stop);
  void backward_weights(Team& team, int first, int last, const BackwardPlan& pass, const std::vector<Destination>& to,
                        const std::vector<char>& begun, bool may_stop);
  // The weight gradients' block sums of this thread's rows and, when others have theirs, their sums and the update; in
  // blocks.cpp. The bits are the same as those of backward_weights.
  void backward_blocks(Team& team, int first, int last, const BackwardPlan& pass);
  void update_blocks(Team& team, const std::vector<Destination>& to);
  // The optimizer over instance.gradients.
  void update(Team& team, const std::vector<char>& which);

 private:
  void reads_value(int v, Region r) {
    if (const int64_t thing = value_thing(v); thing != 0 || (!own_input && makes_inputs())) hazards->reads(thing, r);
  }
  // Two memories may serve a chain's gradients in turn, and one the packed operands of its products.
  void reads_gradient(int v, Region r) { hazards->reads(gradient_thing(v), r, v); }
  void writes_gradient(int v, Region r) { hazards->writes(gradient_thing(v), r, v); }
  int64_t gradient_thing(int v) const {
    return space.things.gradient(space.gradients_shared ? (plan.producer[v] + 2) % 2 : v);
  }
  void reads_operands(int i, Region r) { hazards->reads(operands_thing(i), r, i); }
  void writes_operands(int i, Region r) { hazards->writes(operands_thing(i), r, i); }
  int64_t operands_thing(int i) const { return space.things.operands(space.gradients_shared ? 0 : i); }
  // Whether inputs are gathered or packed: read in place, they are there already.
  bool makes_inputs() const { return !in_place.data || keeps_value(0); }
  // Looks where inputs can be read in place.
  void find_inputs(const Team& team);
  // The number of the batch's row i, or of the next batch's from n on, from memory that others can write to: read once,
  // and the copy is checked and used. -1: out of range, which row_number reports.
  int64_t possible_number(int64_t i) const;
  int64_t row_number(int64_t i);
  // Rows of the batch: the inputs, and what they are judged by.
  void gather_rows(Range r, bool inputs, bool targets);
  void gather_inputs(Range r, const int64_t* index, int64_t from);
  void gather_targets(Range r, const int64_t* index, int64_t from);
  void judge_rows(Team& team, Range r, const std::vector<Head>& heads, const std::vector<Metric>& metrics,
                  bool gradients);
  // Calls f on parts of a product, or of a range of rows of `width` elements, with a look at the interrupt in between;
  // in cuts.hpp.
  template <class F>
  void pieces(Team& team, Range rows, Range cols, int64_t depth, bool may_stop, F&& f);
  // A product of so many rows and columns, each a sum of so many terms, and each thread's part of it.
  struct Work {
    Region part;
    int64_t rows, cols, depth;
    bool gives_rows = false;  // others take rows of a part from its thread; otherwise columns
    bool in_shares = false;   // panels of columns begin with each thread's part; otherwise with the matrix
    Range rows_of(int rank) const { return part.rows.of(rank, rows); }
    Range cols_of(int rank) const { return part.cols.of(rank, cols); }
  };
  // Whether so many threads gain by it; and, before all meet, that this thread's part of what comes next may be done by
  // anybody. In help.cpp.
  bool pays_to_help(int size) const;
  void offer(const Team& team, const Work& work);
  // Calls f on pieces of this thread's part and, if that was offered, of what others have left of theirs.
  template <class F>
  void work_on(Team& team, const Work& work, bool may_stop, F&& f);
  template <class F>
  void slabs(Team& team, Range range, int64_t width, bool may_stop, F&& f);
  void forward_operation(Team& team, int i);
  void backward_operation(Team& team, int i, const std::vector<char>& accumulate, bool may_stop);
  // add, multiply and concatenate, in joins.cpp; spare has room for one row.
  void join_forward(const Operation& op, Range rows);
  void join_backward(const Operation& op, Range rows, const std::vector<char>& accumulate, T* spare);
  T learning_rate(int parameter) const { return static_cast<T>(instance->sgd.learning_rate * plan.rates[parameter]); }
  // The optimizer's step for `size` numbers of a parameter, `at` of the parameters' memory and on.
  void optimize(int parameter, int64_t at, int64_t size, const T* gradient) const {
    const Sgd& sgd = instance->sgd;
    kernels.sgd_update(size, instance->parameters.data() + at, gradient, instance->velocity_at(at),
                       learning_rate(parameter), static_cast<T>(sgd.momentum), sgd.nesterov);
  }
  // What is kept of a parameter in other forms, after a part of it was updated.
  void renew_copies(int parameter, Range rows, Range cols) const {
    if (instance->has_transposed(parameter)) instance->transpose_part(kernels, parameter, rows, cols);
    instance->pack_part(parameter, rows, cols);
  }
  // The gradients of operation i's parameters.
  void parameters_of(Team& team, int i, const BackwardPlan& pass, const std::vector<Destination>& to,
                     const std::vector<char>& begun, bool may_stop);

  // The dense operations, in dense.cpp. The derivative of the activation that made an operation's input, where the
  // product of that input's gradient takes it along.
  struct Derivative {
    Activation activation = Activation::linear;
    T alpha = 0;
    const T* saved = nullptr;
    int64_t row = 0;
  };
  void dense_forward(Team& team, int i, const Work& work);
  void dense_backward(Team& team, int i, bool accumulate, bool may_stop);
  // Of its own activation, where no product takes that along.
  void dense_derivative(Team& team, int i, bool may_stop);
  void input_gradient(Team& team, int i, bool accumulate, bool may_stop);
  void weights_of(Team& team, int i, bool accumulate, bool fuse, bool may_stop, bool with_bias);
  void bias_of(Team& team, int i, bool accumulate, bool fuse);
  void column_sums(int v, Range cols, T* sums, bool accumulate);  // of the gradient of v

  // The same of a mixed network, in dense_mixed.cpp.
  void dense_forward16(Team& team, int i, Range rows, Range cols)
    requires kMixes<T>;
  void input_gradient16(Team& team, int i, Derivative before, bool accumulate, bool may_stop, Range rows, Range cols)
    requires kMixes<T>;
  void weights_of16(Team& team, int i, bool accumulate, bool fuse, Epilogue<T> e, bool may_stop, Range rows, Range cols)
    requires kMixes<T>;
  void column_sums16(int v, Range cols, T* sums, bool accumulate)
    requires kMixes<T>;
  // Calls f(left, rows, columns) on parts of a product that reads `kept`, the whole batch's left operand, or, where
  // there is none, an operand that pack(slab, room) makes of some rows.
  template <class Pack, class F>
  void packed_pieces(Team& team, Range rows, Range cols, int64_t depth, bool may_stop, const void* kept, Pack&& pack,
                     F&& f)
    requires kMixes<T>;
  // A product's result that is kept packed, of the size of v.
  ops::Result16 kept_result(int v) const { return {{nullptr, n, program.widths[v], 0}, Kept16{n, program.widths[v]}}; }
  // Where the gradient of v is kept packed, as the operation that made v reads it; from_value: the derivative reads v.
  ops::Result16 kept_gradient(int v, bool from_value)
    requires kMixes<T>;
  // The operands of the weight gradient of the dense operation i. They are packed along with the input's gradient,
  // while what is read for it is in cache, where a thread has the same rows in both; otherwise afterwards, by
  // pack_operands. pack_gradient also packs the rows as the left operand of the input's gradient, when given a slab.
  bool packs_along(int i) const {
    const Operation& op = program.operations[i];
    return products() && way.across == 1 && plan.trainable[op.weights] && plan.wanted[op.input()];
  }
  void pack_gradient(int i, Range rows, void* slab)
    requires kMixes<T>;
  void pack_input(int i, Range rows, Range cols)
    requires kMixes<T>;
  void pack_operands(Team& team, int i, bool may_stop)
    requires kMixes<T>;
};

extern template struct Run<float>;
extern template struct Run<double>;

}  // namespace fp
