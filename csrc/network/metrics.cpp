#include "network/metrics.hpp"

#include <cmath>

namespace fp {

namespace {

// First largest column; a NaN counts as the largest, as in numpy.argmax.
template <class T>
int64_t argmax(const T* v, int64_t width) {
  int64_t best = 0;
  if (std::isnan(v[0])) return 0;
  for (int64_t j = 1; j < width; ++j) {
    if (std::isnan(v[j])) return j;
    if (v[j] > v[best]) best = j;
  }
  return best;
}

// argmax(v) == c, without a branch per column.
template <class T>
bool is_argmax(const T* v, int64_t width, int64_t c) {
  const T most = v[c];
  if (std::isnan(most)) return argmax(v, width) == c;
  int more = 0;  // a comparison with NaN is false
  for (int64_t j = 0; j < c; ++j) more += !(v[j] < most);
  for (int64_t j = c + 1; j < width; ++j) more += !(v[j] <= most);
  return more == 0;
}

}  // namespace

template <class T>
void metric_rows(const Metric& metric, const Judged<T>& b, int64_t begin, int64_t end, double* values) {
  for (int64_t i = begin; i < end; ++i) {
    const T* p = b.prediction + i * b.prediction_row;
    const T* t = b.target ? b.target + i * b.target_row : nullptr;
    double value = 0;
    switch (metric.kind) {
      case MetricKind::sparse_categorical_accuracy:
        value = is_argmax(p, b.width, b.label[i]);
        break;
      case MetricKind::categorical_accuracy:
        value = is_argmax(p, b.width, argmax(t, b.width));
        break;
      case MetricKind::binary_accuracy:
        for (int64_t j = 0; j < b.width; ++j)
          value += (static_cast<double>(p[j]) > metric.parameter) == (t[j] > T(0.5));
        value /= static_cast<double>(b.width);
        break;
      case MetricKind::mean_squared_error:
        for (int64_t j = 0; j < b.width; ++j) {
          const double e = static_cast<double>(t[j]) - static_cast<double>(p[j]);
          value += e * e;
        }
        value /= static_cast<double>(b.width);
        break;
      case MetricKind::mean_absolute_error:
        for (int64_t j = 0; j < b.width; ++j) value += std::fabs(static_cast<double>(t[j]) - static_cast<double>(p[j]));
        value /= static_cast<double>(b.width);
        break;
      case MetricKind::r2:
        return;
    }
    values[i] = value;
  }
}

template <class T>
double weighted_sum(const T* weights, const double* values, int64_t n) {
  double lane[16] = {};
  for (int64_t i = 0; i < n; ++i) {
    const double w = weights ? static_cast<double>(weights[i]) : 1.0;
    lane[i & 15] += values ? w * values[i] : w;
  }
  for (int half = 8; half > 0; half /= 2)
    for (int j = 0; j < half; ++j) lane[j] += lane[j + half];
  return lane[0];
}

template <class T>
void metric_add(Metric& metric, const Judged<T>& b, int64_t n, const double* values) {
  const double weight = weighted_sum(b.weights, static_cast<const double*>(nullptr), n);
  if (metric.kind != MetricKind::r2) {
    metric.sums[0] += weighted_sum(b.weights, values, n);
    metric.sums[1] += weight;
    return;
  }
  double* s = metric.sums.data();
  for (int64_t j = 0; j < b.width; ++j) {
    double& origin = s[4 * b.width + j];
    if (s[j] == 0) origin = static_cast<double>(b.target[j]);
    double wd = 0, wdd = 0, wee = 0;
    for (int64_t i = 0; i < n; ++i) {
      const double w = b.weights ? static_cast<double>(b.weights[i]) : 1.0;
      const double y = static_cast<double>(b.target[i * b.target_row + j]);
      const double d = y - origin, e = y - static_cast<double>(b.prediction[i * b.prediction_row + j]);
      wd += w * d;
      wdd += w * d * d;
      wee += w * e * e;
    }
    s[j] += weight;
    s[b.width + j] += wd;
    s[2 * b.width + j] += wdd;
    s[3 * b.width + j] += wee;
  }
}

template void metric_rows(const Metric&, const Judged<float>&, int64_t, int64_t, double*);
template void metric_rows(const Metric&, const Judged<double>&, int64_t, int64_t, double*);
template void metric_add(Metric&, const Judged<float>&, int64_t, const double*);
template void metric_add(Metric&, const Judged<double>&, int64_t, const double*);
template double weighted_sum(const float*, const double*, int64_t);
template double weighted_sum(const double*, const double*, int64_t);

}  // namespace fp
