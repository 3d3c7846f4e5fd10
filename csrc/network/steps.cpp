// Many steps in one call, of training or of evaluation.
#include <algorithm>
#include <memory>

#include "network/network.hpp"
#include "runtime/dispatch.hpp"

namespace fp {

namespace {

// A product with its update as epilogue cannot be stopped half-way; above this many seconds the gradients are
// computed first, and only the update itself is beyond interruption.
constexpr double kFusedSeconds = 0.03;
// A cautious guess of one thread's arithmetic per vector lane and second.
constexpr double kFlopPerLane = 2.5e9;

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

template <class T>
int64_t Network<T>::steps(const Sources& sources, int64_t batch_size, int64_t begin, int64_t end, const Limits& limits,
                          bool training) {
  check_configuration(sources);
  if (begin >= end) return begin;
  batch_size = std::min(batch_size, end - begin);
  if (training && !optimizer_) throw std::logic_error("train_steps: no optimizer is set");
  if (!program.is_native()) throw std::logic_error("train_steps: the program has operations written in Python");
  Workspace<T>& space = workspace(batch_size);
  const int most = std::min(threads(), space.threads);  // others may allow more or fewer meanwhile
  space.need_targets(sources.heads, head_widths());
  space.need_metrics(metrics_.size());
  batch_rows_ = 0;  // the pieces' batch, if any, is overwritten, and training needs the gradients' memory
  if (training) std::fill(parameter_begun_.begin(), parameter_begun_.end(), 0);
  instance_.need(instance_.gradients);
  instance_.refresh_transposed(kernels<T>());

  struct Context {
    Network* net;
    Run<T> run;
    int64_t batch_size, end;
    bool training;
    double budget;
    Interrupt::Clock::time_point start;
    bool quick;  // a backward pass is over soon: it updates as it goes and is not stopped
    UpdatePlan updates;
    std::vector<char> none;
    // Until when this stretch goes on, and since when.
    Pace::Stretch stretch;
    Interrupt::Clock::time_point stretch_begun{};
    // What it has done, and when the first steps were over: on lines of its own, as rank 0 writes it in every step.
    alignas(256) int64_t reached = 0;
    int64_t taken = 0;
    Interrupt::Clock::time_point first{};
    // It writes these, and all read them when it has: nobody may decide otherwise. stop: give this step up; last:
    // return after it.
    struct Verdict {
      bool stop = false, last = false;
    };
    alignas(256) Verdict verdict[2] = {};
    bool stop_before_update = false;
  };
  const int team_size = std::min(useful_threads(batch_size, training), most);
  // Which updates are epilogues: those whose whole gradient nobody needs, and that are over soon.
  double flop = 0;
  for (const Parameter& p : program.parameters) flop += 2.0 * static_cast<double>(p.rows * p.cols);
  flop *= static_cast<double>(batch_size);
  const Products16* products = instance_.packed.products;
  const double speed = kFlopPerLane * static_cast<double>(kernels<T>().lanes * (products ? products->speed : 1));
  const bool quick = flop / (team_size * speed) < kFusedSeconds;
  Interrupt interrupt(limits.poll, limits.context);
  Context job{this,
              run(space, interrupt, training),
              batch_size,
              end,
              training,
              limits.budget,
              Interrupt::Clock::now(),
              quick,
              UpdatePlan(program, plan_, quick),
              std::vector<char>(program.parameters.size(), 0),
              Pace::Stretch{team_size}};
  job.reached = begin;
  job.run.sources = &sources;
  job.run.unobserved = true;
  job.run.begin = begin;
  job.run.all_fused = training && !job.updates.any_apart;
  if (job.run.all_fused && most > 1 && space.block_sums.size() > 0) {
    copies_.resize(std::max(copies_.size(), static_cast<std::size_t>(most) - 1));
    for (auto& copy : copies_) {
      if (!copy) copy = std::make_unique<Instance<T>>(program);
      copy->make_room(instance_);
    }
    job.run.copies = copies_.data();
  }
  if (training)
    for (int p = 0; p < instance_.count(); ++p)
      if (job.updates.without[p]) instance_.clear(instance_.gradients, p);

  // A stretch of steps.
  const auto work = [](Team& team, void* p) {
    Context& c = *static_cast<Context*>(p);
    Network& net = *c.net;
    Run<T> run = c.run;
    run.join(team);
    Hazards& hazards = *run.hazards;
    const Things& things = run.space.things;
    const int ops = static_cast<int>(run.program.operations.size());
    const BackwardPlan& pass = net.plan_.backward;
    bool reads_targets = false;  // log_batch
    for (const Metric& m : net.metrics_) reads_targets |= m.kind == MetricKind::r2;
    for (const Targets& t : run.sources->heads) reads_targets |= t.weights != nullptr;
    auto begun = c.stretch_begun;  // this step
    const auto decide = [&] {
      hazards.writes(things.common(Things::verdict, run.turn), Region::one_member());
      hazards.settle(team);
      if (team.rank != 0) return;
      const auto now = Interrupt::Clock::now();
      // What is left of the step takes about as long again.
      const double spent = std::chrono::duration<double>((now - c.start) + (now - begun)).count();
      auto& verdict = c.verdict[run.turn];
      verdict.stop = run.interrupt.stopped();
      verdict.last =
          run.begin + run.n >= c.end || spent >= c.budget || c.taken + 1 >= c.stretch.steps || now >= c.stretch.end;
    };
    for (;;) {
      run.n = std::min(c.batch_size, c.end - run.begin);
      hazards.repeat();
      run.choose_way(team, c.training);
      run.gather(team);
      run.forward(team, 0, ops);
      run.judge(team, net.heads_, net.metrics_, c.training);
      // A quick step is not stopped from here on, so that all may hear of it along with the losses' gradients.
      if (c.quick) decide();
      run.interrupt.hold(team, c.quick);
      const bool values_first = c.training && run.values_first();
      if (values_first) run.backward_values(team, 0, ops, pass, !c.quick);
      if (run.way.blocks) run.backward_blocks(team, 0, ops, pass);
      if (!c.quick) decide();
      hazards.reads(things.common(Things::verdict, run.turn), Region::all());
      hazards.settle(team);
      run.interrupt.hold(team, false);
      // Who is ahead may have found something in the next batch already.
      const auto [stop, last] = c.verdict[run.turn];
      bool give_up = stop || run.interrupt.bad_position() < run.begin + run.n;
      if (c.training && !give_up) {
        if (run.way.blocks)
          run.update_blocks(team, c.updates.to);
        else if (values_first)
          run.backward_weights(team, 0, ops, pass, c.updates.to, c.none, !c.quick);
        else
          run.backward(team, 0, ops, pass, c.updates.to, c.none, !c.quick);
        if (c.updates.any_apart) {
          hazards.writes(things.common(Things::second_verdict), Region::one_member());
          hazards.settle(team);
          if (team.rank == 0) c.stop_before_update = !c.quick && run.interrupt.stopped();
          hazards.reads(things.common(Things::second_verdict), Region::all());
          hazards.settle(team);
          give_up = c.stop_before_update;
          if (!give_up) run.update(team, c.updates.apart);
        }
      }
      if (!give_up) {
        hazards.reads(things.common(Things::losses, run.turn), Region::one_member());
        if (reads_targets) {
          hazards.reads(things.common(Things::targets), Region::one_member());
          for (int v : run.program.outputs) hazards.reads(run.value_thing(v), Region::one_member());
        }
        hazards.settle(team);
      }
      if (team.rank == 0) {
        if (!give_up) {
          net.log_batch(run);
          c.reached += run.n;
          if (c.training) ++net.step_;
        }
        run.interrupt.check(team);
        begun = Interrupt::Clock::now();
        if (++c.taken == c.stretch.left_out) c.first = begun;
      }
      if (give_up || last) return;
      run.turn ^= 1;
      run.begin += run.n;
      if (c.training) ++run.step;
    }
  };
  for (bool done = false; !done;) {
    job.stretch_begun = Interrupt::Clock::now();
    if (training) {
      const int64_t left = (end - job.reached + batch_size - 1) / batch_size;
      job.stretch = pace_.next(batch_size, 3 * flop, team_size, most, left, job.stretch_begun);
      const Way way = job.run.way_for(batch_size, job.stretch.threads);
      if (way.across > 1) instance_.arrange(way.across);
    }
    job.taken = 0;
    job.run.begin = job.reached;
    job.run.step = step_;
    parallel_run(job.stretch.threads, work, &job);
    const auto now = Interrupt::Clock::now();
    const double seconds = std::chrono::duration<double>(now - job.first).count();
    pace_.note(job.stretch, job.taken - job.stretch.left_out, seconds, now);
    done = job.reached >= end || interrupt.stopped() || interrupt.bad_position() != INT64_MAX ||
           std::chrono::duration<double>(now - job.start).count() >= limits.budget;
  }
  const int64_t bad = interrupt.bad_position();
  if (bad != INT64_MAX) reject(sources, bad);
  return job.reached;
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
