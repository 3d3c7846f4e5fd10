#include "network/network.hpp"

#include <algorithm>
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
  trainable_.assign(program.parameters.size(), 1);
  plan_.build(program, trainable_);
  value_begun_.assign(program.widths.size(), 0);
  parameter_begun_.assign(program.parameters.size(), 0);
}

template <class T>
int64_t Network<T>::size(int parameter) const {
  const auto& s = instance_.slice(parameter);
  return s.rows * s.cols;
}

template <class T>
void Network<T>::read(Part part, int parameter, T* to) {
  if (part == Part::parameter) {
    Shared hold(occupancy_);
    instance_.copy_out(instance_.parameters, parameter, to);
    return;
  }
  Exclusive hold(occupancy_);
  Buffer<T>& block = part == Part::gradient ? instance_.gradients : instance_.momentum;
  instance_.need(block);
  instance_.copy_out(block, parameter, to);
}

template <class T>
void Network<T>::write(Part part, int parameter, const T* from) {
  Exclusive hold(occupancy_);
  Buffer<T>& block = part == Part::parameter  ? instance_.parameters
                     : part == Part::gradient ? instance_.gradients
                                              : instance_.momentum;
  instance_.need(block);
  instance_.copy_in(block, parameter, from);
  if (part == Part::parameter) instance_.mark_written(parameter);
}

template <class T>
void Network<T>::set_threads(int threads) {
  Exclusive hold(occupancy_);
  threads_ = threads;
}

template <class T>
void Network<T>::set_trainable(std::vector<char> flags) {
  Exclusive hold(occupancy_);
  trainable_ = std::move(flags);
  plan_.build(program, trainable_);
}

template <class T>
void Network<T>::set_sgd(std::optional<Sgd> sgd) {
  Exclusive hold(occupancy_);
  const bool had = optimizer_ && optimizer_->momentum != 0, has = sgd && sgd->momentum != 0;
  if (had != has) instance_.momentum = Buffer<T>();
  if (has) instance_.need(instance_.momentum);
  optimizer_ = sgd;
  if (sgd) instance_.sgd = *sgd;
}

template <class T>
void Network<T>::set_loss(std::optional<Loss> loss, double parameter) {
  Exclusive hold(occupancy_);
  loss_ = loss;
  loss_parameter_ = parameter;
}

template <class T>
void Network<T>::set_metrics(std::vector<Metric> metrics) {
  Exclusive hold(occupancy_);
  const std::size_t width = static_cast<std::size_t>(program.widths[program.output]);
  for (Metric& m : metrics) m.sums.assign(m.kind == MetricKind::r2 ? 4 * width : 2, 0.0);
  metrics_ = std::move(metrics);
  loss_sums_ = {0, 0};
}

template <class T>
void Network<T>::reset_metrics() {
  Exclusive hold(occupancy_);
  loss_sums_ = {0, 0};
  for (Metric& m : metrics_) std::fill(m.sums.begin(), m.sums.end(), 0.0);
}

template <class T>
Workspace<T>& Network<T>::workspace(int64_t rows) {
  if (!space_ || !space_->fits(rows, threads(), kernels<T>()))
    space_ = std::make_unique<Workspace<T>>(program, kernels<T>(), std::max(rows, space_ ? space_->capacity : 0),
                                            threads(), true);
  return *space_;
}

template <class T>
Run<T> Network<T>::run(Workspace<T>& space, Interrupt& interrupt, bool training) {
  return {program, instance_, space, kernels<T>(), plan_, trainable_, interrupt, training, key, step};
}

// Adds one batch to the logs; returns its cost.
template <class T>
double Network<T>::log_batch(const Workspace<T>& space, bool weighted, int64_t n, const Judged<T>& judged) {
  double sum = 0;
  if (loss_) {
    sum = weighted_sum(weighted ? space.weights.data() : nullptr, space.losses.data(), n);
    loss_sums_[0] += sum;
  }
  loss_sums_[1] += static_cast<double>(n);
  for (std::size_t m = 0; m < metrics_.size(); ++m) metric_add(metrics_[m], judged, n, space.metric_values[m].data());
  return loss_ ? sum / static_cast<double>(n) : 0.0;
}

// Throws for a position that a run found wrong.
template <class T>
void Network<T>::reject(const Sources& sources, int64_t position) const {
  const int64_t row = sources.index ? sources.index[position] : position;
  if (row < 0 || row >= sources.x->rows)
    throw std::out_of_range("rows: expected 0 <= row < " + std::to_string(sources.x->rows) + ", received " +
                            std::to_string(row));
  int64_t label = 0;
  sources.y->gather(&row, 0, 1, &label, 1);
  throw LabelError(label, row, program.widths[program.output]);
}

template <class T>
int64_t Network<T>::steps(const Sources& sources, int64_t batch_size, int64_t begin, int64_t end, const Limits& limits,
                          bool training) {
  if (begin >= end) return begin;
  batch_size = std::min(batch_size, end - begin);
  if (training && !optimizer_) throw std::logic_error("train_steps: no optimizer is set");
  if (!program.is_native()) throw std::logic_error("train_steps: the program has operations written in Python");
  Workspace<T>& space = workspace(batch_size);
  space.need_targets(sources.labels, program.widths[program.output], metrics_.size());
  batch_rows_ = 0;  // the pieces' batch, if any, is overwritten
  instance_.need(instance_.gradients);
  instance_.refresh_transposed(kernels<T>());

  struct Context {
    Network* net;
    Run<T> run;
    int64_t batch_size, end, reached;
    bool training, done = false;
    // Rank 0 looks at the interrupt before a barrier, all read the answer after it: nobody may decide otherwise.
    bool stop = false, stop_before_update = false;
    double budget;
    Interrupt::Clock::time_point start;
    std::vector<Destination> to;
    std::vector<char> apart, none;
    bool any_apart = false;
    bool quick = true;  // a backward pass is over soon: it updates as it goes and is not stopped
  };
  Interrupt interrupt(limits.poll, limits.context);
  Context job{this,          run(space, interrupt, training), batch_size, end, begin, training, false, false, false,
              limits.budget, Interrupt::Clock::now(),         {},         {},  {}};
  job.run.sources = sources;
  const int team_size = Run<T>::useful_threads(program, batch_size, training, threads());

  // Which updates are epilogues: those whose whole gradient nobody needs, and that are over soon.
  double flop = 0;
  for (const Parameter& p : program.parameters) flop += 2.0 * static_cast<double>(p.rows * p.cols);
  flop *= static_cast<double>(batch_size);
  job.quick = flop / (team_size * kFlopPerLane * static_cast<double>(kernels<T>().lanes)) < kFusedSeconds;
  for (int p = 0; p < instance_.count(); ++p) {
    const bool used = trainable_[p] && program.uses(p) > 0, fuse = job.quick && used && program.uses(p) == 1;
    job.to.push_back(fuse ? Destination::parameters : used ? Destination::gradients : Destination::nowhere);
    job.apart.push_back(used && !fuse);
    job.any_apart |= job.apart.back() != 0;
  }
  job.none.assign(job.to.size(), 0);

  parallel_run(
      team_size,
      [](Team& team, void* p) {
        Context& c = *static_cast<Context*>(p);
        Network& net = *c.net;
        Run<T>& run = c.run;
        const int ops = static_cast<int>(run.program.operations.size());
        auto next_batch = [&] {
          run.begin = c.reached;
          run.n = std::min(c.batch_size, c.end - c.reached);
          run.step = net.step;
          run.choose_way(team.size);
        };
        if (team.rank == 0) next_batch();
        if (team.size > 1) team.barrier();
        for (;;) {
          run.gather(team);
          run.forward(team, 0, ops);
          run.judge(team, net.loss_ ? &*net.loss_ : nullptr, static_cast<T>(net.loss_parameter_), net.metrics_);
          if (team.rank == 0) c.stop = run.interrupt.stopped();
          if (team.size > 1) team.barrier();
          bool give_up = c.stop || run.bad_position.load() != INT64_MAX;
          if (c.training && !give_up) {
            run.backward(team, 0, ops, c.to, c.none, !c.quick);
            if (c.any_apart) {
              if (team.rank == 0) c.stop_before_update = !c.quick && run.interrupt.stopped();
              if (team.size > 1) team.barrier();
              give_up = c.stop_before_update;
              if (!give_up) run.update(team, c.apart);
            }
          }
          if (team.rank == 0) {
            if (!give_up) {
              net.log_batch(run.space, run.sources.weights != nullptr, run.n, run.judged());
              c.reached += run.n;
              if (c.training) ++net.step;
            }
            run.interrupt.check(team);
            const double spent = std::chrono::duration<double>(Interrupt::Clock::now() - c.start).count();
            c.done = give_up || c.reached >= c.end || spent >= c.budget || run.interrupt.stopped();
          }
          if (team.size > 1) team.barrier();
          if (c.done) return;
          // Only now has everybody done with this batch's sizes.
          if (team.rank == 0) next_batch();
          if (team.size > 1) team.barrier();
        }
      },
      &job);
  const int64_t bad = job.run.bad_position.load();
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
int64_t Network<T>::predict(const RowSource& x, T* out, int64_t begin, int64_t end, const Limits& limits) {
  Shared hold(occupancy_);
  if (begin >= end) return begin;
  if (!program.is_native()) throw std::logic_error("predict: the program has operations written in Python");
  const int64_t widest = *std::max_element(program.widths.begin(), program.widths.end());
  const int most = threads();
  // Chunks whose activations stay in the second-level cache, unless the layers are wide.
  const int64_t chunk = std::min(end - begin, std::clamp<int64_t>(65536 / widest, 512, 1024) * most);
  const int team_size = Run<T>::useful_threads(program, chunk, false, most);

  std::unique_ptr<Workspace<T>> space;
  for (auto& s : spare_) {
    space.reset(s.exchange(nullptr));
    if (space && space->fits(chunk, team_size, kernels<T>())) break;
    space.reset();
  }
  if (!space) space = std::make_unique<Workspace<T>>(program, kernels<T>(), chunk, team_size, false);

  struct Context {
    Run<T> run;
    T* out;
    int64_t chunk, end, reached;
    bool done;
    double budget;
    Interrupt::Clock::time_point start;
  };
  Interrupt interrupt(limits.poll, limits.context);
  Context job{run(*space, interrupt, false), out, chunk, end, begin, false, limits.budget, Interrupt::Clock::now()};
  job.run.sources.x = &x;
  parallel_run(
      team_size,
      [](Team& team, void* p) {
        Context& c = *static_cast<Context*>(p);
        Run<T>& run = c.run;
        const int64_t width = run.program.widths[run.program.output];
        for (;;) {
          if (team.rank == 0) {
            run.begin = c.reached;
            run.n = std::min(c.chunk, c.end - c.reached);
            run.choose_way(team.size);
          }
          if (team.size > 1) team.barrier();
          run.gather(team);
          run.forward(team, 0, static_cast<int>(run.program.operations.size()));
          const auto y = run.value(run.program.output);
          const Range r = run.rows_of(team);
          for (int64_t i = r.begin; i < r.end; ++i)
            std::memcpy(c.out + (run.begin + i) * width, y.data + i * y.row,
                        sizeof(T) * static_cast<std::size_t>(width));
          if (team.size > 1) team.barrier();
          if (team.rank == 0) {
            if (!run.interrupt.stopped()) c.reached += run.n;
            run.interrupt.check(team);
            const double spent = std::chrono::duration<double>(Interrupt::Clock::now() - c.start).count();
            c.done = c.reached >= c.end || spent >= c.budget || run.interrupt.stopped();
          }
          if (team.size > 1) team.barrier();
          if (c.done) return;
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

template class Network<float>;
template class Network<double>;

}  // namespace fp
