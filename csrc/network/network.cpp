#include "network/network.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "network/worth.hpp"
#include "runtime/dispatch.hpp"

namespace fp {

template <class T>
Network<T>::Network(Program p) : program((p.validate(), std::move(p))), instance_(program) {
  plan_.trainable.assign(program.parameters.size(), 1);
  plan_.rates.assign(program.parameters.size(), 1.0);
  heads_.resize(1);
  if (program.mixed) instance_.packed.choose(products16(), program);
  value_begun_.assign(program.widths.size(), 0);
  parameter_begun_.assign(program.parameters.size(), 0);
  plan_ = planned(plan_, heads_);
}

template <class T>
Plan Network<T>::planned(Plan plan, const std::vector<Head>& heads) const {
  std::vector<char> begun(program.widths.size(), 0);
  for (const Head& head : heads) begun[program.output(head.output)] |= head.loss.has_value();
  plan.build(program, begun);
  return plan;
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
  Exclusive hold(occupancy_, part == Part::parameter ? Writes::parameters : Writes::others);
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
  Plan plan = plan_;
  plan.trainable = std::move(flags);
  plan_ = planned(std::move(plan), heads_);
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
  std::vector<Metric> metrics = metrics_;
  std::erase_if(metrics, [&](const Metric& m) { return m.head >= static_cast<int>(heads.size()); });
  clear_logs(heads, metrics);
  plan_ = planned(plan_, heads);  // and what follows needs no memory
  bool same = heads.size() == heads_.size();
  for (std::size_t h = 0; same && h < heads.size(); ++h) same = heads[h].output == heads_[h].output;
  if (!same) batch_rows_ = 0;  // its targets are others'
  heads_ = std::move(heads);
  metrics_ = std::move(metrics);
  ++configuration_;
}

template <class T>
void Network<T>::set_metrics(std::vector<Metric> metrics) {
  Exclusive hold(occupancy_);
  clear_logs(heads_, metrics);
  metrics_ = std::move(metrics);
  ++configuration_;
}

template <class T>
void Network<T>::check_configuration(const Sources& sources) const {
  if (sources.configuration != configuration_) throw Busy("another thread has replaced this model's losses or metrics");
}

template <class T>
std::vector<std::vector<double>> Network<T>::logs() {
  Shared hold(occupancy_);
  std::vector<std::vector<double>> sums;
  for (const Head& head : heads_) sums.emplace_back(head.sums, head.sums + 2);
  for (const Metric& m : metrics_) sums.push_back(m.sums);
  return sums;
}

template <class T>
void Network<T>::reset_metrics() {
  Exclusive hold(occupancy_);
  clear_logs(heads_, metrics_);
}

template <class T>
void Network<T>::clear_logs(std::vector<Head>& heads, std::vector<Metric>& metrics) const {
  for (Metric& m : metrics) {
    const auto width = static_cast<std::size_t>(program.widths[program.output(heads[m.head].output)]);
    m.sums.assign(m.kind == MetricKind::r2 ? kR2Rows * width : 2, 0.0);
  }
  for (Head& head : heads) head.sums[0] = head.sums[1] = 0;
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
uint64_t Network<T>::step() {
  Shared hold(occupancy_);
  return step_;
}

template <class T>
void Network<T>::set_step(uint64_t step) {
  Exclusive hold(occupancy_);
  step_ = step;
}

template <class T>
uint64_t Network<T>::key() {
  Shared hold(occupancy_);
  return key_;
}

template <class T>
void Network<T>::set_key(uint64_t key) {
  Exclusive hold(occupancy_);
  key_ = key;
}

template <class T>
int64_t Network<T>::batch_rows() {
  Shared hold(occupancy_);
  return batch_rows_;
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
  return path_name<T>(instance_.packed.products);
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
  Run<T> run{program, &instance_, space, *space.made_for, plan_, interrupt, training, key_, step_};
  run.master = &instance_;
  return run;
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
  const int64_t chunk = std::min(end - begin, rows_at_a_time(widest) * most);
  const int team_size = Run<T>::useful_threads(program, chunk, false, most);

  const Products16* products = instance_.packed.products;
  std::unique_ptr<Workspace<T>> space =
      spares_.take([&](const Workspace<T>& spare) { return spare.fits(chunk, team_size, kernels<T>(), products); });
  if (!space) space = std::make_unique<Workspace<T>>(program, kernels<T>(), products, chunk, team_size, false);

  Interrupt interrupt(limits.poll, limits.context);
  const auto start = Interrupt::Clock::now();
  Sources sources;
  sources.x = &x;
  Run<T> whole = run(*space, interrupt, false);
  whole.sources = &sources;
  whole.unobserved = true;
  whole.begin = begin;
  int64_t reached = begin;
  bool done[2] = {};  // in turn: the next chunk's answer must not overtake a thread that has yet to read this one's
  parallel_run(team_size, [&](Team& team) {
    Run<T> run = whole;
    run.join(team);
    for (int turn = 0;; turn ^= 1) {
      run.n = std::min(chunk, end - run.begin);
      run.choose_way(team, false);
      run.gather(team);
      run.forward(team, 0, static_cast<int>(program.operations.size()));
      for (int v : program.outputs) run.hazards->reads(run.value_thing(v), run.own_rows());
      run.hazards->settle(team);
      const Range r = run.rows_of(team);
      for (std::size_t k = 0; k < out.size(); ++k) {
        const int v = program.outputs[k];
        const auto y = run.value(v);
        const int64_t width = program.widths[v];
        for (int64_t i = r.begin; i < r.end; ++i)
          std::memcpy(out[k] + (run.begin + i) * width, y.data + i * y.row,
                      sizeof(T) * static_cast<std::size_t>(width));
      }
      if (team.rank == 0) {
        // Only this thread's looks stop a run: whoever left something out did so after one of them.
        if (!interrupt.stopped()) reached += run.n;
        interrupt.check(team);
        const double spent = std::chrono::duration<double>(Interrupt::Clock::now() - start).count();
        done[turn] = reached >= end || spent >= limits.budget || interrupt.stopped();
      }
      run.hazards->meet(team);
      if (done[turn]) return;
      run.begin += run.n;
    }
  });
  spares_.leave(std::move(space));
  return reached;
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
