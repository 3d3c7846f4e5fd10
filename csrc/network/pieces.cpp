// The pieces of one step, for runs in which Python takes part.
#include <algorithm>
#include <cstring>
#include <limits>

#include "network/network.hpp"
#include "runtime/dispatch.hpp"

namespace fp {

template <class T>
void Network<T>::check_operations(int first, int last) const {
  if (first < 0 || last < first || last > static_cast<int>(program.operations.size()))
    throw std::out_of_range("operations: expected a range within the program");
  for (int i = first; i < last; ++i)
    if (program.operations[i].kind == OperationKind::python)
      throw std::logic_error("operations: one of them is written in Python");
}

template <class T>
void Network<T>::check_value(int value) const {
  if (value < 0 || value >= static_cast<int>(program.widths.size()))
    throw std::out_of_range("value: expected a value of the program");
  if (batch_rows_ == 0) throw std::logic_error("value: no batch is loaded");
}

template <class T>
void Network<T>::check_value(int value, int64_t rows) const {
  check_value(value);
  if (rows != batch_rows_) throw Busy("value: another thread has loaded another batch");
}

// Runs fn(run, team) on the loaded batch.
template <class T>
struct Network<T>::Call {
  template <class F>
  static void over(Network& net, bool training, F&& fn) {
    Interrupt never(nullptr, nullptr);
    Run<T> whole = net.run(*net.space_, never, training);
    whole.n = net.batch_rows_;
    const int team_size = net.useful_threads(net.batch_rows_, training);
    parallel_run(std::min(team_size, net.space_->threads), [&](Team& team) {
      Run<T> run = whole;
      run.join(team);
      run.choose_way(team, false);
      fn(run, team);
    });
  }
};

template <class T>
void Network<T>::load_batch(const Sources& sources, int64_t begin, int64_t end) {
  Exclusive hold(occupancy_);
  check_configuration(sources);
  if (end <= begin) throw std::invalid_argument("load_batch: expected at least one row");
  batch_rows_ = 0;  // if there is no memory
  Workspace<T>& space = workspace(end - begin);
  space.need_targets(sources.heads, head_widths());
  batch_rows_ = end - begin;
  int64_t bad = INT64_MAX;
  Call::over(*this, false, [&](Run<T>& run, Team& team) {
    run.sources = &sources;
    run.begin = begin;
    run.gather(team);
    run.hazards->meet(team);
    if (team.rank == 0) bad = run.interrupt.bad_position();
  });
  if (bad == INT64_MAX) return;
  batch_rows_ = 0;
  reject(sources, bad);
}

template <class T>
void Network<T>::forward(int first, int last, bool training) {
  Exclusive hold(occupancy_);
  check_operations(first, last);
  check_value(0);
  batch_training_ = training;
  Call::over(*this, training, [&](Run<T>& run, Team& team) { run.forward(team, first, last); });
}

template <class T>
void Network<T>::read_value(int value, int64_t rows, T* to) {
  Exclusive hold(occupancy_);
  check_value(value, rows);
  Interrupt never(nullptr, nullptr);
  const auto v = run(*space_, never, batch_training_).value(value);
  const int64_t width = program.widths[value];
  for (int64_t i = 0; i < batch_rows_; ++i)
    std::memcpy(to + i * width, v.data + i * v.row, sizeof(T) * static_cast<std::size_t>(width));
}

template <class T>
void Network<T>::write_value(int value, int64_t rows, const T* from) {
  Exclusive hold(occupancy_);
  check_value(value, rows);
  const auto& v = space_->values[value];
  const int64_t width = program.widths[value];
  for (int64_t i = 0; i < batch_rows_; ++i)
    std::memcpy(v.data + i * v.row, from + i * width, sizeof(T) * static_cast<std::size_t>(width));
}

template <class T>
double Network<T>::judge(bool training) {
  Exclusive hold(occupancy_);
  check_value(0);
  bool any = false;
  for (std::size_t h = 0; h < heads_.size(); ++h) {
    const auto& j = space_->heads[h];
    bool read = heads_[h].loss.has_value(), fits = !read || loss_takes_labels(*heads_[h].loss) == j.labels;
    any |= read;
    for (const Metric& m : metrics_)
      if (m.head == static_cast<int>(h)) {
        read = true;
        fits = fits && metric_takes_labels(m.kind) == j.labels;
      }
    if (read && !j.given) throw std::logic_error("loss: the batch has no targets");
    if (read && !fits) throw std::logic_error("loss: the batch was loaded for another loss or other metrics");
  }
  space_->need_metrics(metrics_.size());
  double cost = 0;
  Call::over(*this, batch_training_, [&](Run<T>& run, Team& team) {
    run.judge(team, heads_, metrics_, training);
    run.hazards->meet(team);
    if (team.rank == 0) cost = log_batch(run);
  });
  if (training) {
    std::fill(value_begun_.begin(), value_begun_.end(), 0);
    std::fill(parameter_begun_.begin(), parameter_begun_.end(), 0);
    for (const Head& head : heads_) value_begun_[program.output(head.output)] |= head.loss.has_value();
  }
  return any ? cost : std::numeric_limits<double>::quiet_NaN();
}

template <class T>
void Network<T>::read_value_gradient(int value, int64_t rows, T* to) {
  Exclusive hold(occupancy_);
  check_value(value, rows);
  const auto& g = space_->gradients[value];
  const int64_t width = program.widths[value];
  for (int64_t i = 0; i < batch_rows_; ++i)
    if (g.data && value_begun_[value])
      std::memcpy(to + i * width, g.data + i * g.row, sizeof(T) * static_cast<std::size_t>(width));
    else
      std::fill(to + i * width, to + (i + 1) * width, T(0));
}

template <class T>
void Network<T>::write_value_gradient(int value, int64_t rows, const T* from) {
  Exclusive hold(occupancy_);
  check_value(value, rows);
  const auto& g = space_->gradients[value];
  if (!g.data) return;  // the input's gradient is not kept
  const int64_t width = program.widths[value];
  for (int64_t i = 0; i < batch_rows_; ++i)
    for (int64_t j = 0; j < width; ++j) {
      T& to = g.data[i * g.row + j];
      to = value_begun_[value] ? to + from[i * width + j] : from[i * width + j];
    }
  value_begun_[value] = 1;
}

template <class T>
void Network<T>::backward(int first, int last) {
  Exclusive hold(occupancy_);
  check_operations(first, last);
  check_value(0);
  instance_.need(instance_.gradients);
  instance_.refresh_transposed(kernels<T>());
  const BackwardPlan pass = plan_.order(program, first, last, value_begun_);
  const std::vector<char> begun = parameter_begun_;
  std::vector<Destination> to;
  for (char trainable : plan_.trainable) to.push_back(trainable ? Destination::gradients : Destination::nowhere);
  Call::over(*this, true, [&](Run<T>& run, Team& team) { run.backward(team, first, last, pass, to, begun, true); });
  for (int i = first; i < last; ++i) {
    const Operation& op = program.operations[i];
    if (!pass.active[i]) continue;
    for (int v : op.inputs) value_begun_[v] |= plan_.wanted[v];
    if (op.weights >= 0) parameter_begun_[op.weights] |= plan_.trainable[op.weights];
    if (op.bias >= 0) parameter_begun_[op.bias] |= plan_.trainable[op.bias];
  }
}

template <class T>
void Network<T>::update() {
  Exclusive hold(occupancy_, Writes::parameters);
  if (!optimizer_) throw std::logic_error("update: no optimizer is set");
  if (batch_rows_ == 0) throw std::logic_error("update: no batch is loaded");
  instance_.need(instance_.gradients);
  // Weights written since the last step must not leave an old transpose beside a partly renewed one.
  instance_.refresh_transposed(kernels<T>());
  for (int p = 0; p < instance_.count(); ++p)
    if (!parameter_begun_[p]) instance_.clear(instance_.gradients, p);  // no loss reached it
  Call::over(*this, true, [&](Run<T>& run, Team& team) { run.update(team, plan_.trainable); });
  ++step_;
}

template <class T>
void Network<T>::advance() {
  Exclusive hold(occupancy_);
  ++step_;
}

#define FP_INSTANTIATE(T)                                                 \
  template void Network<T>::check_operations(int, int) const;             \
  template void Network<T>::check_value(int) const;                       \
  template void Network<T>::load_batch(const Sources&, int64_t, int64_t); \
  template void Network<T>::forward(int, int, bool);                      \
  template void Network<T>::read_value(int, int64_t, T*);                 \
  template void Network<T>::write_value(int, int64_t, const T*);          \
  template double Network<T>::judge(bool);                                \
  template void Network<T>::read_value_gradient(int, int64_t, T*);        \
  template void Network<T>::write_value_gradient(int, int64_t, const T*); \
  template void Network<T>::backward(int, int);                           \
  template void Network<T>::update();                                     \
  template void Network<T>::advance();
FP_INSTANTIATE(float)
FP_INSTANTIATE(double)
#undef FP_INSTANTIATE

}  // namespace fp
