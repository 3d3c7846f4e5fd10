#include "network/network.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "runtime/dispatch.hpp"

namespace fp {

namespace {

// A product with its update as epilogue cannot be stopped half-way; above this many seconds the gradients are
// computed first, and only the update itself is beyond interruption.
constexpr double kFusedSeconds = 0.03;
// A cautious guess of one thread's arithmetic per vector lane and second.
constexpr double kFlopPerLane = 2.5e9;

}  // namespace

template <class T>
Network<T>::Network(Program p) : program((p.validate(), std::move(p))), instance_(program) {
  plan_.trainable.assign(program.parameters.size(), 1);
  plan_.rates.assign(program.parameters.size(), 1.0);
  heads_.resize(1);
  if (program.mixed) instance_.packed.choose(products16(), program);
  value_begun_.assign(program.widths.size(), 0);
  parameter_begun_.assign(program.parameters.size(), 0);
  replan();
}

template <class T>
void Network<T>::replan() {
  std::vector<char> begun(program.widths.size(), 0);
  for (const Head& head : heads_) begun[program.output(head.output)] |= head.loss.has_value();
  plan_.build(program, begun);
}

template <class T>
void Network<T>::read(Part part, int index, T* to) {
  Shared hold(occupancy_);
  if (part == Part::parameter) {
    instance_.copy_out(instance_.parameters, index, to);
  } else if (part == Part::state) {
    instance_.copy_out(instance_.state, instance_.state_layout().slices[index], 1, to);
  } else {
    const Slice& s = instance_.slice(index);
    if (parameter_begun_[index])
      instance_.copy_out(instance_.gradients, index, to);
    else  // the last backward pass did not reach it
      std::fill(to, to + s.rows * s.cols, T(0));
  }
}

template <class T>
void Network<T>::write(Part part, int index, const T* from) {
  Exclusive hold(occupancy_);
  if (part == Part::state) {
    instance_.copy_in(instance_.state, instance_.state_layout().slices[index], 1, from);
  } else if (part == Part::parameter) {
    instance_.copy_in(instance_.parameters, index, from);
    instance_.mark_written(index);
  } else {
    instance_.need(instance_.gradients);
    instance_.copy_in(instance_.gradients, index, from);
    parameter_begun_[index] = 1;
  }
}

template <class T>
void Network<T>::read_slot(const std::string& slot, int parameter, T* to) {
  Shared hold(occupancy_);
  instance_.copy_out(instance_.slot(slot)->block, parameter, to);
}

template <class T>
void Network<T>::write_slot(const std::string& slot, int parameter, const T* from) {
  Exclusive hold(occupancy_);
  instance_.copy_in(instance_.slot(slot)->block, parameter, from);
}

template <class T>
std::vector<std::string> Network<T>::slot_names() const {
  std::vector<std::string> names;
  for (const auto& slot : instance_.slots) names.push_back(slot.name);
  return names;
}

template <class T>
void Network<T>::set_threads(int threads) {
  Exclusive hold(occupancy_);
  plan_.threads = threads;
}

template <class T>
void Network<T>::set_trainable(std::vector<char> flags) {
  Exclusive hold(occupancy_);
  plan_.trainable = std::move(flags);
  replan();
}

template <class T>
void Network<T>::set_rates(std::vector<double> rates) {
  Exclusive hold(occupancy_);
  plan_.rates = std::move(rates);
}

template <class T>
void Network<T>::set_sgd(std::optional<Sgd> sgd) {
  Exclusive hold(occupancy_);
  std::vector<std::string> slots;
  if (sgd && sgd->momentum != 0) slots.push_back("momentum");
  instance_.set_slots(slots);
  optimizer_ = sgd;
  instance_.sgd = sgd.value_or(Sgd{});
}

template <class T>
std::vector<int64_t> Network<T>::head_widths() const {
  std::vector<int64_t> widths;
  for (const Head& head : heads_) widths.push_back(program.widths[program.output(head.output)]);
  return widths;
}

template <class T>
void Network<T>::set_heads(std::vector<Head> heads) {
  Exclusive hold(occupancy_);
  bool same = heads.size() == heads_.size();
  for (std::size_t h = 0; same && h < heads.size(); ++h) same = heads[h].output == heads_[h].output;
  if (!same) batch_rows_ = 0;  // its targets are others'
  heads_ = std::move(heads);
  std::erase_if(metrics_, [&](const Metric& m) { return m.head >= static_cast<int>(heads_.size()); });
  clear_logs();
  replan();
}

template <class T>
void Network<T>::set_metrics(std::vector<Metric> metrics) {
  Exclusive hold(occupancy_);
  metrics_ = std::move(metrics);
  clear_logs();
}

template <class T>
void Network<T>::reset_metrics() {
  Exclusive hold(occupancy_);
  clear_logs();
}

template <class T>
void Network<T>::clear_logs() {
  const std::vector<int64_t> widths = head_widths();
  for (Head& head : heads_) head.sums[0] = head.sums[1] = 0;
  for (Metric& m : metrics_)
    m.sums.assign(m.kind == MetricKind::r2 ? 4 * static_cast<std::size_t>(widths[m.head]) : 2, 0.0);
}

template <class T>
void Network<T>::follow_path() {
  if (!program.mixed || instance_.packed.products == &products16()) return;
  instance_.packed.choose(products16(), program);
  instance_.pack_all();
  space_.reset();
  batch_rows_ = 0;
}

template <class T>
bool Network<T>::is_finite() {
  Shared hold(occupancy_);
  const T* block = instance_.parameters.data();  // pads are zero
  bool finite = true;
  for (int64_t i = 0; i < instance_.parameters.size(); ++i)
    finite &= std::abs(block[i]) <= std::numeric_limits<T>::max();
  return finite;
}

template <class T>
std::string Network<T>::product_path() {
  Shared hold(occupancy_);
  const Products16* products = instance_.packed.products;
  if (products) return std::string("bfloat16 ") + products->name;
  return std::string(sizeof(T) == 4 ? "float32 " : "float64 ") + table().name;
}

template <class T>
Workspace<T>& Network<T>::workspace(int64_t rows) {
  follow_path();
  const Products16* products = instance_.packed.products;
  if (!space_ || !space_->fits(rows, threads(), kernels<T>(), products))
    space_ = std::make_unique<Workspace<T>>(program, kernels<T>(), products,
                                            std::max(rows, space_ ? space_->capacity : 0), threads(), true);
  return *space_;
}

template <class T>
Run<T> Network<T>::run(Workspace<T>& space, Interrupt& interrupt, bool training) {
  Run<T> run{program, &instance_, space, kernels<T>(), plan_, interrupt, training, key, step};
  run.master = &instance_;
  return run;
}

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
  if (begin >= end) return begin;
  batch_size = std::min(batch_size, end - begin);
  if (training && !optimizer_) throw std::logic_error("train_steps: no optimizer is set");
  if (!program.is_native()) throw std::logic_error("train_steps: the program has operations written in Python");
  Workspace<T>& space = workspace(batch_size);
  space.need_targets(sources.heads, head_widths());
  space.need_metrics(metrics_.size());
  batch_rows_ = 0;  // the pieces' batch, if any, is overwritten
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
    // Until when this stretch goes on.
    Pace::Stretch stretch{1};
    // What it has done, and when its first step was over: on lines of its own, as rank 0 writes it in every step.
    alignas(256) int64_t reached = 0;
    int64_t taken = 0;
    Interrupt::Clock::time_point first{};
    // It writes these before a barrier, and all read them after it: nobody may decide otherwise. stop: give this step
    // up; last: return after it.
    struct Verdict {
      bool stop = false, last = false;
    };
    alignas(256) Verdict verdict[2] = {};
    bool stop_before_update = false;
  };
  const int team_size = useful_threads(batch_size, training);
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
              std::vector<char>(program.parameters.size(), 0)};
  job.reached = begin;
  job.run.sources = &sources;
  job.run.begin = begin;
  job.run.all_fused = training && !job.updates.any_apart;
  if (job.run.all_fused && threads() > 1 && space.block_sums.size() > 0) {
    copies_.resize(std::max(copies_.size(), static_cast<std::size_t>(threads()) - 1));
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
    bool reads_targets = !net.metrics_.empty();  // log_batch
    for (const Targets& t : run.sources->heads) reads_targets |= t.weights != nullptr;
    auto begun = c.start;  // this step
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
          if (c.training) ++net.step;
        }
        run.interrupt.check(team);
        begun = Interrupt::Clock::now();
        if (++c.taken == 1) c.first = begun;
      }
      if (give_up || last) return;
      run.turn ^= 1;
      run.begin += run.n;
      if (c.training) ++run.step;
    }
  };
  for (bool done = false; !done;) {
    job.stretch = training ? pace_.next(batch_size, 3 * flop, team_size, threads(), Interrupt::Clock::now())
                           : Pace::Stretch{team_size};
    if (training) {
      const Way way = job.run.way_for(batch_size, job.stretch.threads);
      if (way.across > 1) instance_.arrange(way.across);
    }
    job.taken = 0;
    job.run.begin = job.reached;
    job.run.step = step;
    parallel_run(job.stretch.threads, work, &job);
    const auto now = Interrupt::Clock::now();
    const double seconds = std::chrono::duration<double>(now - job.first).count();
    pace_.note(job.stretch, job.taken - 1, seconds, now);
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
  Exclusive hold(occupancy_);
  return steps(sources, batch_size, begin, end, limits, true);
}

template <class T>
int64_t Network<T>::evaluate_steps(const Sources& sources, int64_t batch_size, int64_t begin, int64_t end,
                                   const Limits& limits) {
  Exclusive hold(occupancy_);
  return steps(sources, batch_size, begin, end, limits, false);
}

template <class T>
int64_t Network<T>::predict(const RowSource& x, const std::vector<T*>& out, int64_t begin, int64_t end,
                            const Limits& limits) {
  if (program.mixed && product_path() != std::string("bfloat16 ") + products16().name) {
    // The instruction set was changed; while others predict, all go on with the old one.
    try {
      Exclusive hold(occupancy_);
      follow_path();
    } catch (const Busy&) {
    }
  }
  Shared hold(occupancy_);
  if (begin >= end) return begin;
  if (!program.is_native()) throw std::logic_error("predict: the program has operations written in Python");
  const int64_t widest = *std::max_element(program.widths.begin(), program.widths.end());
  const int most = threads();
  // Chunks whose activations stay in the second-level cache, unless the layers are wide.
  const int64_t chunk = std::min(end - begin, std::clamp<int64_t>(65536 / widest, 512, 1024) * most);
  const int team_size = Run<T>::useful_threads(program, chunk, false, most);

  const Products16* products = instance_.packed.products;
  std::unique_ptr<Workspace<T>> space;
  for (auto& s : spare_) {
    space.reset(s.exchange(nullptr));
    if (space && space->fits(chunk, team_size, kernels<T>(), products)) break;
    space.reset();
  }
  if (!space) space = std::make_unique<Workspace<T>>(program, kernels<T>(), products, chunk, team_size, false);

  struct Context {
    Run<T> run;
    const std::vector<T*>& out;
    int64_t chunk, end, reached;
    bool done[2];  // in turn: the next chunk's answer must not overtake a thread that has yet to read this one's
    double budget;
    Interrupt::Clock::time_point start;
  };
  Interrupt interrupt(limits.poll, limits.context);
  Context job{run(*space, interrupt, false), out, chunk, end, begin, {}, limits.budget, Interrupt::Clock::now()};
  Sources sources;
  sources.x = &x;
  job.run.sources = &sources;
  job.run.begin = begin;
  parallel_run(
      team_size,
      [](Team& team, void* p) {
        Context& c = *static_cast<Context*>(p);
        Run<T> run = c.run;
        run.join(team);
        for (int turn = 0;; turn ^= 1) {
          run.n = std::min(c.chunk, c.end - run.begin);
          run.choose_way(team, false);
          run.gather(team);
          run.forward(team, 0, static_cast<int>(run.program.operations.size()));
          for (int v : run.program.outputs) run.hazards->reads(run.value_thing(v), run.own_rows());
          run.hazards->settle(team);
          const Range r = run.rows_of(team);
          for (std::size_t k = 0; k < c.out.size(); ++k) {
            const int v = run.program.outputs[k];
            const auto y = run.value(v);
            const int64_t width = run.program.widths[v];
            for (int64_t i = r.begin; i < r.end; ++i)
              std::memcpy(c.out[k] + (run.begin + i) * width, y.data + i * y.row,
                          sizeof(T) * static_cast<std::size_t>(width));
          }
          if (team.rank == 0) {
            // Only this thread's looks stop a run: whoever left something out did so after one of them.
            if (!run.interrupt.stopped()) c.reached += run.n;
            run.interrupt.check(team);
            const double spent = std::chrono::duration<double>(Interrupt::Clock::now() - c.start).count();
            c.done[turn] = c.reached >= c.end || spent >= c.budget || run.interrupt.stopped();
          }
          run.hazards->meet(team);
          if (c.done[turn]) return;
          run.begin += run.n;
        }
      },
      &job);
  for (auto& s : spare_) {
    Workspace<T>* empty = nullptr;
    if (s.compare_exchange_strong(empty, space.get())) {
      space.release();
      break;
    }
  }
  return job.reached;
}

template <class T>
std::unique_ptr<Predictor<T>> Network<T>::predictor() {
  if (!Predictor<T>::can_run(program)) return nullptr;
  Shared hold(occupancy_);
  return std::make_unique<Predictor<T>>(program, instance_, occupancy_.changes());
}

template class Network<float>;
template class Network<double>;

}  // namespace fp
