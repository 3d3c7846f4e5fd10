// The functions behind src/fastperceptron/include/fastperceptron.h: everything is checked, nothing is thrown.
#define FASTPERCEPTRON_NO_CALLS
#include <new>
#include <numeric>
#include <vector>

#include "bindings/arrays.hpp"
#include "bindings/predictor.hpp"
#include "fastperceptron.h"
#include "ops/whole.hpp"
#include "runtime/dispatch.hpp"
#include "runtime/few.hpp"

namespace fp::bindings {
namespace {

constexpr int64_t kMost = int64_t(1) << 40;

// Statuses as exceptions, which stay inside this file.
struct Refused {
  int status;
};

template <class F>
int status_of(const F& f) {
  try {
    f();
    return FASTPERCEPTRON_OK;
  } catch (const Refused& refused) {
    return refused.status;
  } catch (const std::bad_alloc&) {
    return FASTPERCEPTRON_NO_MEMORY;
  } catch (...) {
    return FASTPERCEPTRON_FAILED;
  }
}

void require(bool fine) {
  if (!fine) throw Refused{FASTPERCEPTRON_BAD_ARGUMENT};
}

template <class T>
Matrix<T> matrix(T* data, int64_t rows, int64_t cols, int64_t row) {
  require(rows >= 0 && cols >= 0 && rows < kMost && cols < kMost);
  require(rows == 0 || cols <= kMost / rows);
  if (rows <= 1) row = cols;
  require(row >= cols && (rows == 0 || row <= kMost / rows));
  require(data || rows == 0 || cols == 0);
  require(reinterpret_cast<std::uintptr_t>(data) % alignof(T) == 0);
  return {data, rows, cols, row};
}

Activation activation_of(int number, double alpha, bool softmax) {
  require(number >= 0 && number < kActivations);
  const auto a = static_cast<Activation>(number);
  require(softmax || a != Activation::softmax);
  require(alpha >= 0 || (a != Activation::leaky_relu && a != Activation::elu));
  return a;
}

template <class T, class... Inputs>
void require_apart(const Matrix<T>& out, const Inputs&... inputs) {
  require(!(overlap(out, inputs) || ...));
}
template <class T, class Input>
void require_same_or_apart(const Matrix<T>& out, const Input& input) {
  require(identical(out, input) || !overlap(out, input));
}

template <class T>
int dense_forward(int64_t n, int64_t in, int64_t out, const T* x_, int64_t x_row, const T* w_, int64_t w_row,
                  const T* b, int activation, T alpha, T* y_, int64_t y_row) {
  return status_of([&] {
    const Activation a = activation_of(activation, alpha, false);
    const auto x = matrix(x_, n, in, x_row), w = matrix(w_, in, out, w_row);
    const auto y = matrix(y_, n, out, y_row);
    require_apart(y, x, w);
    if (b) require_apart(y, matrix(b, 1, out, out));
    whole::dense_forward<T>(x, w, b, a, alpha, y);
  });
}

template <class T>
int dense_backward_input(int64_t n, int64_t in, int64_t out, const T* dz_, int64_t dz_row, const T* w_, int64_t w_row,
                         T* dx_, int64_t dx_row) {
  return status_of([&] {
    const auto dz = matrix(dz_, n, out, dz_row), w = matrix(w_, in, out, w_row);
    const auto dx = matrix(dx_, n, in, dx_row);
    require_apart(dx, dz, w);
    whole::dense_backward_input<T>(dz, w, dx);
  });
}

template <class T>
int dense_backward_weights(int64_t n, int64_t in, int64_t out, const T* x_, int64_t x_row, const T* dz_, int64_t dz_row,
                           T* dw_, int64_t dw_row) {
  return status_of([&] {
    const auto x = matrix(x_, n, in, x_row), dz = matrix(dz_, n, out, dz_row);
    const auto dw = matrix(dw_, in, out, dw_row);
    require_apart(dw, x, dz);
    whole::dense_backward_weights<T>(x, dz, dw);
  });
}

template <class T>
int dense_backward_bias(int64_t n, int64_t out, const T* dz_, int64_t dz_row, T* db_) {
  return status_of([&] {
    const auto dz = matrix(dz_, n, out, dz_row);
    const auto db = matrix(db_, 1, out, out);
    require_apart(db, dz);
    whole::dense_backward_bias<T>(dz, db.data);
  });
}

template <class T>
int activation_forward(int activation, T alpha, int64_t n, int64_t width, const T* z_, int64_t z_row, T* y_,
                       int64_t y_row) {
  return status_of([&] {
    const Activation a = activation_of(activation, alpha, true);
    const auto z = matrix(z_, n, width, z_row);
    const auto y = matrix(y_, n, width, y_row);
    require_same_or_apart(y, z);
    whole::activation_forward<T>(a, alpha, z, y);
  });
}

template <class T>
int activation_backward(int activation, T alpha, int64_t n, int64_t width, const T* dy_, int64_t dy_row,
                        const T* saved_, int64_t saved_row, T* dz_, int64_t dz_row) {
  return status_of([&] {
    const Activation a = activation_of(activation, alpha, true);
    const auto dy = matrix(dy_, n, width, dy_row), saved = matrix(saved_, n, width, saved_row);
    const auto dz = matrix(dz_, n, width, dz_row);
    require_same_or_apart(dz, dy);
    if (a == Activation::softmax)
      require_apart(dz, saved);
    else
      require_same_or_apart(dz, saved);
    whole::activation_backward<T>(a, alpha, dy, saved, dz);
  });
}

const fastperceptron_predictor* predictor_of_object(PyObject* object) {
  const AnyPredictor* p = object ? predictor_of(object) : nullptr;
  if (!p)
    PyErr_Format(
        PyExc_TypeError,
        "fastperceptron: expected a compiled predictor, of a model on the native backend without layers written "
        "in Python; received %.200s",
        object ? Py_TYPE(object)->tp_name : "NULL");
  return reinterpret_cast<const fastperceptron_predictor*>(p);
}

const AnyPredictor& any(const fastperceptron_predictor* p) { return *reinterpret_cast<const AnyPredictor*>(p); }

int64_t total(const std::vector<int64_t>& widths) { return std::accumulate(widths.begin(), widths.end(), int64_t(0)); }

int64_t predictor_inputs(const fastperceptron_predictor* p) {
  return p ? std::visit([](const auto& q) { return total(q->inputs()); }, any(p)) : -1;
}
int64_t predictor_outputs(const fastperceptron_predictor* p) {
  return p ? std::visit([](const auto& q) { return total(q->outputs()); }, any(p)) : -1;
}
int predictor_is_f64(const fastperceptron_predictor* p) {
  return p ? std::holds_alternative<std::unique_ptr<Predictor<double>>>(any(p)) : -1;
}

// Matrices of these widths that lie side by side in one.
template <class E>
Few<Place<E>> side_by_side(const Matrix<E>& whole, const std::vector<int64_t>& widths) {
  Few<Place<E>> places(widths.size());
  E* at = whole.data;
  for (std::size_t i = 0; i < widths.size(); at += widths[i++]) places[i] = {at, whole.row};
  return places;
}

template <class T>
int predictor_run(const fastperceptron_predictor* p, const T* x_, int64_t rows, T* y_) {
  return status_of([&] {
    require(p != nullptr);
    const auto* held = std::get_if<std::unique_ptr<Predictor<T>>>(&any(p));
    if (!held) throw Refused{FASTPERCEPTRON_WRONG_TYPE};
    const Predictor<T>& q = **held;
    const int64_t inputs = total(q.inputs()), outputs = total(q.outputs());
    const auto x = matrix(x_, rows, inputs, inputs);
    const auto y = matrix(y_, rows, outputs, outputs);
    require_apart(y, x);
    if (rows == 0) return;  // and perhaps no memory either
    q.run(side_by_side(x, q.inputs()).data(), side_by_side(y, q.outputs()).data(), rows, thread_count());
  });
}

constexpr fastperceptron_api table = {
    FASTPERCEPTRON_ABI_VERSION,
    sizeof(fastperceptron_api),
    predictor_of_object,
    predictor_inputs,
    predictor_outputs,
    predictor_is_f64,
    dense_forward<float>,
    dense_backward_input<float>,
    dense_backward_weights<float>,
    dense_backward_bias<float>,
    activation_forward<float>,
    activation_backward<float>,
    predictor_run<float>,
    dense_forward<double>,
    dense_backward_input<double>,
    dense_backward_weights<double>,
    dense_backward_bias<double>,
    activation_forward<double>,
    activation_backward<double>,
    predictor_run<double>,
};

}  // namespace

void register_c_api(py::module_& m) {
  m.attr("_c_api") = py::capsule(static_cast<const void*>(&table), "fastperceptron._core._c_api");
}

}  // namespace fp::bindings
