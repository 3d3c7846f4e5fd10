// Logs accumulated while batches run: the loss and the built-in metrics. Row values are computed by whoever owns the
// rows, from column to column; the batch's sums are taken by one thread, in 16 lanes and one fixed tree, those of r2
// from row to row. So they do not depend on threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace fp {

enum class MetricKind {
  binary_accuracy,
  categorical_accuracy,
  sparse_categorical_accuracy,
  mean_squared_error,
  mean_absolute_error,
  r2,
};

struct Metric {
  MetricKind kind;
  double parameter;  // binary_accuracy: the threshold
  int head = 0;      // whose output, targets and weights it reads
  // {weighted sum, sum of weights}; r2: rows of `width`, {sum w, sum w d, sum w d^2, sum w (y - p)^2, origin}, where
  // d = y - origin: the first target, near which large targets have differences that their squares would lose.
  std::vector<double> sums;
};
inline constexpr std::size_t kR2Rows = 5;

constexpr bool metric_takes_labels(MetricKind kind) { return kind == MetricKind::sparse_categorical_accuracy; }

// What a batch's rows are judged by.
template <class T>
struct Judged {
  int64_t width;
  const T* prediction;
  int64_t prediction_row;
  const T* target;  // nullptr with labels
  int64_t target_row;
  const int64_t* label;  // nullptr with a target matrix
  const T* weights;      // nullptr: all 1
};

// Values of rows [begin, end) into values[row]; r2 has none.
template <class T>
void metric_rows(const Metric& metric, const Judged<T>& batch, int64_t begin, int64_t end, double* values);

// Adds a batch of n rows to metric.sums.
template <class T>
void metric_add(Metric& metric, const Judged<T>& batch, int64_t n, const double* values);

// sum_i w_i v_i over n rows in 16 lanes and a fixed tree; w or v may be nullptr (all 1).
template <class T>
double weighted_sum(const T* weights, const double* values, int64_t n);

}  // namespace fp
