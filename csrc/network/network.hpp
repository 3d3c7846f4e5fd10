// A network: a program, its instance, and the calls that run it. No Python here.
//
// One thread may train or change a network at a time, any number may predict at once; a call that conflicts with
// one in progress throws Busy and does nothing.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>

#include "network/occupancy.hpp"
#include "network/pace.hpp"
#include "network/predictor.hpp"
#include "network/run.hpp"
#include "runtime/spares.hpp"

namespace fp {

// A label outside [0, classes) met while training or evaluating; the network is as before the step.
class LabelError : public std::invalid_argument {
 public:
  LabelError(int64_t label, int64_t row, int64_t classes)
      : std::invalid_argument("sparse labels: expected 0 <= label < " + std::to_string(classes) + ", received " +
                              std::to_string(label) + " in row " + std::to_string(row)) {}
};

// When a run of several batches returns, and whom it asks whether to stop at once.
struct Limits {
  double budget = 0;  // seconds; stops after the first whole batch past it
  bool (*poll)(void*) = nullptr;
  void* context = nullptr;
};

template <class T>
class Network {
 public:
  explicit Network(Program program);

  const Program program;

  // Finished updates, which select the dropout masks; and the key of all that is random.
  uint64_t step();
  void set_step(uint64_t step);
  uint64_t key();
  void set_key(uint64_t key);

  // What computes the dense products: the type of their operands and the path, as in "bfloat16 avx512_bf16".
  std::string product_path();
  // How many threads a step (training) or an evaluation in batches of so many rows is worth, of those allowed.
  int useful_threads(int64_t rows, bool training) const {
    return Run<T>::useful_threads(program, rows, training, threads());
  }
  // The most threads that training steps of so many rows have run on lately: small ones try fewer and more.
  int step_threads(int64_t rows) {
    Shared hold(occupancy_);
    const int paced = pace_.threads(rows);
    return paced ? paced : useful_threads(rows, true);
  }

  // Whether no parameter is infinite or NaN.
  bool is_finite();

  // State. Writing takes the network exclusively; arrays are unpadded (rows, cols).
  enum class Part { parameter, gradient, state };
  void read(Part part, int index, T* to);
  void write(Part part, int index, const T* from);
  void read_slot(const std::string& slot, int parameter, T* to);
  void write_slot(const std::string& slot, int parameter, const T* from);
  std::vector<std::string> slot_names() const;

  // Configuration.
  void set_threads(int threads);
  void set_trainable(std::vector<char> flags);
  void set_rates(std::vector<double> rates);
  void set_sgd(std::optional<Sgd> sgd);     // nullopt: updates come from outside; there are no slots
  void set_heads(std::vector<Head> heads);  // metrics of heads that are gone go too
  void set_metrics(std::vector<Metric> metrics);
  // How often heads or metrics have been set.
  uint64_t configuration() const { return configuration_; }

  // Logs: each head's sums, then each metric's.
  std::vector<std::vector<double>> logs();
  void reset_metrics();
  const std::vector<Head>& heads() const { return heads_; }
  const std::vector<Metric>& metrics() const { return metrics_; }

  // Runs over positions [begin, end) in batches; each returns the position reached.
  int64_t train_steps(const Sources& sources, int64_t batch_size, int64_t begin, int64_t end, const Limits& limits);
  int64_t evaluate_steps(const Sources& sources, int64_t batch_size, int64_t begin, int64_t end, const Limits& limits);
  // out: rows of each of the program's outputs.
  int64_t predict(const RowSource& x, const std::vector<T*>& out, int64_t begin, int64_t end, const Limits& limits);
  // A copy of the inference form, or nullptr where a predictor cannot run the program.
  std::unique_ptr<Predictor<T>> predictor();

  // The pieces of one step.
  void load_batch(const Sources& sources, int64_t begin, int64_t end);
  void forward(int first, int last, bool training);
  int64_t batch_rows();
  // Of a batch of so many rows.
  void read_value(int value, int64_t rows, T* to);
  void write_value(int value, int64_t rows, const T* from);
  double judge(bool training);
  void read_value_gradient(int value, int64_t rows, T* to);
  void write_value_gradient(int value, int64_t rows, const T* from);
  void backward(int first, int last);
  void update();
  void advance();

 private:
  struct Call;   // one of the pieces
  struct Steps;  // many steps in one call
  // Repacks the weights of a mixed network for the path that products16() gives by now.
  void follow_path();
  Run<T> run(Workspace<T>& space, Interrupt& interrupt, bool training);
  int threads() const { return plan_.threads > 0 ? plan_.threads : thread_count(); }
  // The training workspace, grown when a batch needs it.
  Workspace<T>& workspace(int64_t rows);
  void check_operations(int first, int last) const;
  void check_value(int value) const;
  void check_value(int value, int64_t rows) const;
  // Throws where heads or metrics have been replaced since the sources were made for them.
  void check_configuration(const Sources& sources) const;
  int64_t steps(const Sources& sources, int64_t batch_size, int64_t begin, int64_t end, const Limits& limits,
                bool training);
  double log_batch(const Run<T>& run);
  // The plan of a whole step, whose backward pass begins at the losses.
  Plan planned(Plan plan, const std::vector<Head>& heads) const;
  void clear_logs(std::vector<Head>& heads, std::vector<Metric>& metrics) const;
  std::vector<int64_t> head_widths() const;
  [[noreturn]] void reject(const Sources& sources, int64_t position) const;

  Instance<T> instance_;
  std::vector<std::unique_ptr<Instance<T>>> copies_;  // that threads other than the first train, see Way::copies
  Plan plan_;
  std::optional<Sgd> optimizer_;
  uint64_t step_ = 0, key_ = 0;
  std::vector<Head> heads_;
  std::vector<Metric> metrics_;
  std::atomic<uint64_t> configuration_{0};

  std::unique_ptr<Workspace<T>> space_;
  Spares<Workspace<T>> spares_;  // of predictions

  // The batch that the pieces work on.
  int64_t batch_rows_ = 0;
  bool batch_training_ = false;
  std::vector<char> value_begun_, parameter_begun_;

  Pace pace_;  // of training
  Occupancy occupancy_;
};

}  // namespace fp
