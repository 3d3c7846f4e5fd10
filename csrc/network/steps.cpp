// Many steps in one call, of training or of evaluation.
#include <algorithm>
#include <memory>
#include <string>

#include "network/network.hpp"
#include "network/worth.hpp"
#include "runtime/dispatch.hpp"

namespace fp {

namespace {

// A product with its update as epilogue cannot be stopped half-way; above this many seconds the gradients are
// computed first, and only the update itself is beyond interruption.
constexpr double kFusedSeconds = 0.03;
// A cautious guess of one thread's arithmetic per vector lane and second.
constexpr double kFlopPerLane = 2.5e9;

double flop_per_second(int64_t lanes, const Products16* products) {
  return kFlopPerLane * static_cast<double>(lanes * (products ? products->speed : 1));
}

}  // namespace

// Adds one batch to the logs; returns its cost.
template <class T>
double Network<T>::log_batch(const Run<T>& run) {
  double cost = 0;
  for (std::size_t h = 0; h < heads_.size(); ++h) {
    Head& head = heads_[h];
    const auto& j = run.space.heads[h];
    const double divisor = run.normaliser(head, h);
    head.sums[1] += divisor;
    if (!head.loss) continue;
    const double sum = weighted_sum(j.weighted ? j.weights.data() : nullptr, run.losses(h), run.n);
    head.sums[0] += sum;
    if (divisor != 0) cost += head.weight * (sum / divisor);
  }
  for (std::size_t m = 0; m < metrics_.size(); ++m) {
    const std::size_t h = static_cast<std::size_t>(metrics_[m].head);
    metric_add(metrics_[m], run.judged(heads_[h], h), run.n, run.metric_values(m));
  }
  return cost;
}

// Throws for a position that a run found wrong.
template <class T>
void Network<T>::reject(const Sources& sources, int64_t position) const {
  const int64_t row = sources.index ? sources.index[position] : position;
  if (row < 0 || row >= sources.x->rows)
    throw std::out_of_range("rows: expected 0 <= row < " + std::to_string(sources.x->rows) + ", received " +
                            std::to_string(row));
  const Targets* wrong = nullptr;
  int64_t label = 0;
  for (const Targets& t : sources.heads) {
    if (!t.y || !t.labels) continue;
    int64_t given = 0;
    t.y->gather(&row, 0, 1, &given, 1);
    const bool bad = given < 0 || given >= t.classes;
    if (wrong && !bad) continue;
    wrong = &t;  // in case somebody has mended it meanwhile, any
    label = given;
    if (bad) break;
  }
  throw LabelError(label, row, wrong ? wrong->classes : 0);
}

// One call: its steps come in stretches, each by as many threads as pace.hpp says.
template <class T>
struct Network<T>::Steps {
  using Clock = Interrupt::Clock;

  Network& net;
  const bool training;
  const int64_t batch_size, end;
  const double budget;
  const Clock::time_point start = Clock::now();
  Interrupt interrupt;
  Workspace<T>& space;
  const int most;     // threads; others may allow more or fewer meanwhile
  const int worth;    // threads that the work is worth where all is well
  const double flop;  // of a step's forward pass
  const bool quick;   // a backward pass is over soon: it updates as it goes and is not stopped
  const UpdatePlan updates;
  bool reads_targets = false;  // log_batch does
  const std::vector<char> none;
  Run<T> run;  // as every thread begins it

  // Until when this stretch goes on, and since when.
  Pace::Stretch stretch{};
  Clock::time_point stretch_begun{};
  // What it has done, and when the first steps were over: on lines of its own, as rank 0 writes it in every step.
  alignas(256) int64_t reached;
  int64_t taken = 0;
  Clock::time_point first{};
  // Rank 0 writes these, and all read them when it has: nobody may decide otherwise. stop: give this step up; last:
  // return after it.
  struct Verdict {
    bool stop = false, last = false;
  };
  alignas(256) Verdict verdict[2] = {};
  bool stop_before_update = false;

  Steps(Network& network, const Sources& sources, int64_t batch, int64_t begin, int64_t end_, const Limits& limits,
        bool training_);
  // All stretches; returns the position reached.
  int64_t take();

 private:
  // What each thread does in a stretch.
  void work(Team& team);
  void decide(Team& team, const Run<T>& own, Clock::time_point begun);
  // The rest of the backward pass and the update; false when that was given up.
  bool learn(Team& team, Run<T>& own, bool values_first);
  // Before what the others have made of the batch is logged.
  void settle_logs(Team& team, Run<T>& own) const;
};

template <class T>
Network<T>::Steps::Steps(Network& network, const Sources& sources, int64_t batch, int64_t begin, int64_t end_,
                         const Limits& limits, bool training_)
    : net(network),
      training(training_),
      batch_size(batch),
      end(end_),
      budget(limits.budget),
      interrupt(limits.poll, limits.context),
      space(net.workspace(batch)),
      most(std::min(net.threads(), space.threads)),
      worth(std::min(net.useful_threads(batch, training), most)),
      flop(forward_flop(net.program, batch)),
      quick(flop / (worth * flop_per_second(kernels<T>().lanes, net.instance_.packed.products)) < kFusedSeconds),
      updates(net.program, net.plan_, quick),
      none(net.program.parameters.size(), 0),
      run(net.run(space, interrupt, training)),
      reached(begin) {
  space.need_targets(sources.heads, net.head_widths());
  space.need_metrics(net.metrics_.size());
  for (const Metric& m : net.metrics_) reads_targets |= m.kind == MetricKind::r2;
  for (const Targets& t : sources.heads) reads_targets |= t.weights != nullptr;
  run.sources = &sources;
  run.unobserved = true;
  run.look_at_inputs(begin, end, batch, run.way_for(batch, worth));
  run.all_fused = training && !updates.any_apart;
  if (run.all_fused && most > 1 && space.block_sums.size() > 0) {
    net.copies_.resize(std::max(net.copies_.size(), static_cast<std::size_t>(most) - 1));
    for (auto& copy : net.copies_) {
      if (!copy) copy = std::make_unique<Instance<T>>(net.program);
      copy->make_room(net.instance_);
    }
    run.copies = net.copies_.data();
  }
}

template <class T>
int64_t Network<T>::Steps::take() {
  for (bool done = false; !done;) {
    stretch_begun = Clock::now();
    stretch = {worth};
    if (training) {
      const int64_t left = (end - reached + batch_size - 1) / batch_size;
      stretch = net.pace_.next(batch_size, 3 * flop, worth, most, left, stretch_begun);
      const Way way = run.way_for(batch_size, stretch.threads);
      if (way.across > 1) net.instance_.arrange(way.across);
      space.arrange_blocks(net.instance_.shares());
    }
    taken = 0;
    run.begin = reached;
    run.step = net.step_;
    parallel_run(stretch.threads, [this](Team& team) { work(team); });
    const auto now = Clock::now();
    net.pace_.note(stretch, taken - stretch.left_out, std::chrono::duration<double>(now - first).count(), now);
    done = reached >= end || interrupt.stopped() || interrupt.bad_position() != INT64_MAX ||
           std::chrono::duration<double>(now - start).count() >= budget;
  }
  return reached;
}

template <class T>
void Network<T>::Steps::work(Team& team) {
  Run<T> own = run;
  own.join(team);
  Hazards& hazards = *own.hazards;
  const Things& things = space.things;
  const int ops = static_cast<int>(net.program.operations.size());
  auto begun = stretch_begun;  // this step
  for (;;) {
    own.n = std::min(batch_size, end - own.begin);
    own.later = training ? std::min(batch_size, end - own.begin - own.n) : 0;
    hazards.repeat();
    own.choose_way(team, training);
    own.gather(team);
    own.forward(team, 0, ops);
    own.judge(team, net.heads_, net.metrics_, training);
    // A quick step is not stopped from here on, so that all may hear of it along with the losses' gradients.
    if (quick) decide(team, own, begun);
    interrupt.hold(team, quick);
    const bool values_first = training && own.values_first();
    if (values_first) own.backward_values(team, 0, ops, net.plan_.backward, !quick);
    if (own.way.blocks) own.backward_blocks(team, 0, ops, net.plan_.backward);
    if (!quick) decide(team, own, begun);
    hazards.reads(things.common(Things::verdict, own.turn), Region::all());
    hazards.settle(team);
    interrupt.hold(team, false);
    // Who is ahead may have found something in the next batch already.
    const auto [stop, last] = verdict[own.turn];
    bool give_up = stop || interrupt.bad_position() < own.begin + own.n;
    if (training && !give_up) give_up = !learn(team, own, values_first);
    if (!give_up) settle_logs(team, own);
    if (team.rank == 0) {
      if (!give_up) {
        net.log_batch(own);
        reached += own.n;
        if (training) ++net.step_;
      }
      interrupt.check(team);
      begun = Clock::now();
      if (++taken == stretch.left_out) first = begun;
    }
    if (give_up || last) return;
    own.turn ^= 1;
    own.begin += own.n;
    if (training) ++own.step;
  }
}

template <class T>
void Network<T>::Steps::decide(Team& team, const Run<T>& own, Clock::time_point begun) {
  own.hazards->writes(space.things.common(Things::verdict, own.turn), Region::one_member());
  own.hazards->settle(team);
  if (team.rank != 0) return;
  const auto now = Clock::now();
  // What is left of the step takes about as long again.
  const double spent = std::chrono::duration<double>((now - start) + (now - begun)).count();
  verdict[own.turn].stop = interrupt.stopped();
  verdict[own.turn].last =
      own.begin + own.n >= end || spent >= budget || taken + 1 >= stretch.steps || now >= stretch.end;
}

template <class T>
bool Network<T>::Steps::learn(Team& team, Run<T>& own, bool values_first) {
  const int ops = static_cast<int>(net.program.operations.size());
  if (own.way.blocks)
    own.update_blocks(team, updates.to);
  else if (values_first)
    own.backward_weights(team, 0, ops, net.plan_.backward, updates.to, none, !quick);
  else
    own.backward(team, 0, ops, net.plan_.backward, updates.to, none, !quick);
  if (!updates.any_apart) return true;
  Hazards& hazards = *own.hazards;
  hazards.writes(space.things.common(Things::second_verdict), Region::one_member());
  hazards.settle(team);
  if (team.rank == 0) stop_before_update = !quick && interrupt.stopped();
  hazards.reads(space.things.common(Things::second_verdict), Region::all());
  hazards.settle(team);
  if (stop_before_update) return false;
  own.update(team, updates.apart);
  return true;
}

template <class T>
void Network<T>::Steps::settle_logs(Team& team, Run<T>& own) const {
  Hazards& hazards = *own.hazards;
  hazards.reads(space.things.common(Things::losses, own.turn), Region::one_member());
  if (reads_targets) {
    hazards.reads(space.things.common(Things::targets), Region::one_member());
    for (int v : net.program.outputs) hazards.reads(own.value_thing(v), Region::one_member());
  }
  hazards.settle(team);
}

template <class T>
int64_t Network<T>::steps(const Sources& sources, int64_t batch_size, int64_t begin, int64_t end, const Limits& limits,
                          bool training) {
  check_configuration(sources);
  if (begin >= end) return begin;
  batch_size = std::min(batch_size, end - begin);
  if (training && !optimizer_) throw std::logic_error("train_steps: no optimizer is set");
  if (!program.is_native())
    throw std::logic_error(std::string(training ? "train_steps" : "evaluate_steps") +
                           ": the program has operations written in Python");
  batch_rows_ = 0;  // the pieces' batch, if any, is overwritten, and training needs the gradients' memory
  if (training) std::fill(parameter_begun_.begin(), parameter_begun_.end(), 0);
  Steps steps(*this, sources, batch_size, begin, end, limits, training);
  instance_.need(instance_.gradients);
  instance_.refresh_transposed(kernels<T>());
  if (training)
    for (int p = 0; p < instance_.count(); ++p)
      if (steps.updates.without[p]) instance_.clear(instance_.gradients, p);
  const int64_t reached = steps.take();
  const int64_t bad = steps.interrupt.bad_position();
  if (bad != INT64_MAX) reject(sources, bad);
  return reached;
}

template <class T>
int64_t Network<T>::train_steps(const Sources& sources, int64_t batch_size, int64_t begin, int64_t end,
                                const Limits& limits) {
  Exclusive hold(occupancy_, Writes::parameters);
  return steps(sources, batch_size, begin, end, limits, true);
}

template <class T>
int64_t Network<T>::evaluate_steps(const Sources& sources, int64_t batch_size, int64_t begin, int64_t end,
                                   const Limits& limits) {
  Exclusive hold(occupancy_);
  return steps(sources, batch_size, begin, end, limits, false);
}

#define FP_INSTANTIATE(T)                                                                                \
  template double Network<T>::log_batch(const Run<T>&);                                                  \
  template int64_t Network<T>::train_steps(const Sources&, int64_t, int64_t, int64_t, const Limits&);    \
  template int64_t Network<T>::evaluate_steps(const Sources&, int64_t, int64_t, int64_t, const Limits&); \
  template void Network<T>::reject(const Sources&, int64_t) const;
FP_INSTANTIATE(float)
FP_INSTANTIATE(double)
#undef FP_INSTANTIATE

}  // namespace fp
