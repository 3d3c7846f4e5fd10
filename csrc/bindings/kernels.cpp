// The stateless functions: check, release the GIL, call.
//
// Releasing the GIL is safe in every function below: the arrays are referenced by this frame, so that NumPy neither
// frees nor resizes their memory; shapes and pointers were read before; labels are a private copy. Somebody who
// writes to an argument meanwhile changes numbers, not memory that is not theirs.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>

#include "bindings/arrays.hpp"
#include "bindings/errors.hpp"
#include "bindings/gil.hpp"
#include "ops/whole.hpp"
#include "runtime/dispatch.hpp"
#include "runtime/permutation.hpp"

namespace fp::bindings {
namespace {

std::string number(int64_t value) { return std::to_string(value); }

Activation activation_of(const char* operation, int value) {
  if (value < 0 || value >= kActivations)
    raise_value(std::string(operation) + ": activation must be a number from 0 to " + number(kActivations - 1) +
                "; received " + number(value));
  return static_cast<Activation>(value);
}

Loss loss_of(const char* operation, int value) {
  if (value < 0 || value >= kLosses)
    raise_value(std::string(operation) + ": kind must be a number from 0 to " + number(kLosses - 1) + "; received " +
                number(value));
  return static_cast<Loss>(value);
}

py::array dense_forward(const py::object& x_, const py::object& w_, const py::object& b_, int activation_, double alpha,
                        const py::object& out) {
  const char* op = "dense_forward";
  Activation activation = activation_of(op, activation_);
  if (activation == Activation::softmax) raise_value("dense_forward: activation must be elementwise; received softmax");
  py::array xa = as_array(op, "x", x_), wa = as_array(op, "w", w_);
  check_dimensions(op, "w", wa, 2);
  check_dimensions(op, "x", xa, 2);
  check_shape(op, "x", xa, {xa.shape(0), wa.shape(0)}, "to match w " + text(wa));
  return by_dtype(op, "x", xa, [&](auto zero) -> py::array {
    using T = decltype(zero);
    Input<T> x(op, "x", xa), w(op, "w", wa), b;
    if (!b_.is_none()) {
      py::array ba = as_array(op, "b", b_);
      check_shape(op, "b", ba, {wa.shape(1)}, "to match w " + text(wa));
      b = Input<T>(op, "b", ba);
    }
    Output<T> y(op, out, {xa.shape(0), wa.shape(1)});
    check_apart(op, "out", y.matrix, x.matrix, w.matrix, b.matrix);
    {
      const WithoutGil release;
      whole::dense_forward<T>(x.matrix, w.matrix, b.matrix.data, activation, T(alpha), y.matrix);
    }
    return y.array;
  });
}

py::array bfloat16_product(const py::object& a_, const py::object& b_, bool transpose_a, bool transpose_b) {
  const char* op = "bfloat16_product";
  py::array aa = as_array(op, "a", a_), ba = as_array(op, "b", b_);
  check_dimensions(op, "a", aa, 2);
  check_dimensions(op, "b", ba, 2);
  const py::ssize_t m = aa.shape(transpose_a ? 1 : 0), k = aa.shape(transpose_a ? 0 : 1);
  const py::ssize_t n = ba.shape(transpose_b ? 0 : 1);
  check_shape(op, "b", ba, transpose_b ? Shape{n, k} : Shape{k, n}, "to match a " + text(aa));
  Input<float> a(op, "a", aa), b(op, "b", ba);
  Output<float> c(op, py::none(), {m, n});
  available(products16);
  {
    const WithoutGil release;
    whole::bfloat16_product(a.matrix, transpose_a, b.matrix, transpose_b, c.matrix);
  }
  return c.array;
}

bool leaves_out_zeros(const py::object& a_, int64_t columns, bool transpose_a) {
  const char* op = "leaves_out_zeros";
  py::array aa = as_array(op, "a", a_);
  check_dimensions(op, "a", aa, 2);
  return by_dtype(op, "a", aa, [&](auto zero) {
    const Input<decltype(zero)> a(op, "a", aa);
    const WithoutGil release;
    return whole::leaves_out_zeros(a.matrix, transpose_a, columns);
  });
}

py::array dense_backward_input(const py::object& dz_, const py::object& w_, const py::object& out) {
  const char* op = "dense_backward_input";
  py::array dza = as_array(op, "dz", dz_), wa = as_array(op, "w", w_);
  check_dimensions(op, "w", wa, 2);
  check_dimensions(op, "dz", dza, 2);
  check_shape(op, "dz", dza, {dza.shape(0), wa.shape(1)}, "to match w " + text(wa));
  return by_dtype(op, "dz", dza, [&](auto zero) -> py::array {
    using T = decltype(zero);
    Input<T> dz(op, "dz", dza), w(op, "w", wa);
    Output<T> dx(op, out, {dza.shape(0), wa.shape(0)});
    check_apart(op, "out", dx.matrix, dz.matrix, w.matrix);
    {
      const WithoutGil release;
      whole::dense_backward_input<T>(dz.matrix, w.matrix, dx.matrix);
    }
    return dx.array;
  });
}

py::array dense_backward_weights(const py::object& x_, const py::object& dz_, const py::object& out) {
  const char* op = "dense_backward_weights";
  py::array xa = as_array(op, "x", x_), dza = as_array(op, "dz", dz_);
  check_dimensions(op, "x", xa, 2);
  check_dimensions(op, "dz", dza, 2);
  check_shape(op, "dz", dza, {xa.shape(0), dza.shape(1)}, "to match x " + text(xa));
  return by_dtype(op, "x", xa, [&](auto zero) -> py::array {
    using T = decltype(zero);
    Input<T> x(op, "x", xa), dz(op, "dz", dza);
    Output<T> dw(op, out, {xa.shape(1), dza.shape(1)});
    check_apart(op, "out", dw.matrix, x.matrix, dz.matrix);
    {
      const WithoutGil release;
      whole::dense_backward_weights<T>(x.matrix, dz.matrix, dw.matrix);
    }
    return dw.array;
  });
}

py::array dense_backward_bias(const py::object& dz_, const py::object& out) {
  const char* op = "dense_backward_bias";
  py::array dza = as_array(op, "dz", dz_);
  check_dimensions(op, "dz", dza, 2);
  return by_dtype(op, "dz", dza, [&](auto zero) -> py::array {
    using T = decltype(zero);
    Input<T> dz(op, "dz", dza);
    Output<T> db(op, out, {dza.shape(1)});
    check_apart(op, "out", db.matrix, dz.matrix);
    {
      const WithoutGil release;
      whole::dense_backward_bias<T>(dz.matrix, db.matrix.data);
    }
    return db.array;
  });
}

void check_softmax_axis(const char* operation, const char* name, Activation activation, const py::array& a) {
  if (activation == Activation::softmax && a.ndim() == 0)
    raise_shape(std::string(operation) + ": " + name +
                " must have at least 1 dimension for softmax over the last axis; received shape ()");
}

py::array activation_forward(int activation_, double alpha, const py::object& z_, const py::object& out) {
  const char* op = "activation_forward";
  Activation activation = activation_of(op, activation_);
  py::array za = as_array(op, "z", z_);
  check_softmax_axis(op, "z", activation, za);
  return by_dtype(op, "z", za, [&](auto zero) -> py::array {
    using T = decltype(zero);
    Input<T> z(op, "z", za);
    Output<T> y(op, out, shape_of(za));
    check_same_or_apart(op, "out", y.matrix, z.matrix);
    {
      const WithoutGil release;
      whole::activation_forward<T>(activation, T(alpha), z.matrix, y.matrix);
    }
    return y.array;
  });
}

py::array activation_backward(int activation_, double alpha, const py::object& dy_, const py::object& saved_,
                              const py::object& out) {
  const char* op = "activation_backward";
  Activation activation = activation_of(op, activation_);
  py::array dya = as_array(op, "dy", dy_), sa = as_array(op, "saved", saved_);
  check_softmax_axis(op, "dy", activation, dya);
  check_shape(op, "saved", sa, shape_of(dya), "to match dy");
  return by_dtype(op, "dy", dya, [&](auto zero) -> py::array {
    using T = decltype(zero);
    Input<T> dy(op, "dy", dya), saved(op, "saved", sa);
    Output<T> dz(op, out, shape_of(dya));
    check_same_or_apart(op, "out", dz.matrix, dy.matrix);
    if (activation == Activation::softmax)
      check_apart(op, "out", dz.matrix, saved.matrix);
    else
      check_same_or_apart(op, "out", dz.matrix, saved.matrix);
    {
      const WithoutGil release;
      whole::activation_backward<T>(activation, T(alpha), dy.matrix, saved.matrix, dz.matrix);
    }
    return dz.array;
  });
}

// Predictions and targets of a loss, checked. Labels are checked on a private copy.
template <class T>
struct LossInputs {
  Input<T> prediction, target;
  py::array_t<int64_t> label;

  LossInputs(const char* op, Loss kind, const py::object& y_true_, const py::object& y_pred_) {
    py::array y_true = as_array(op, "y_true", y_true_), y_pred = as_array(op, "y_pred", y_pred_);
    check_dimensions(op, "y_pred", y_pred, 2);
    prediction = Input<T>(op, "y_pred", y_pred);
    if (!loss_takes_labels(kind)) {
      check_shape(op, "y_true", y_true, shape_of(y_pred), "to match y_pred");
      target = Input<T>(op, "y_true", y_true);
      return;
    }
    check_shape(op, "y_true", y_true, {y_pred.shape(0)}, "to match y_pred " + text(y_pred));
    char kind_of = y_true.dtype().kind();
    if (kind_of != 'i' && kind_of != 'u')
      raise_dtype(std::string(op) + ": y_true must be integer labels; received " +
                  std::string(py::str(y_true.dtype())));
    label = py::array_t<int64_t>(py::array(
        py::module_::import("numpy").attr("array")(y_true, py::arg("dtype") = "int64", py::arg("order") = "C")));
    int64_t classes = y_pred.shape(1);
    for (py::ssize_t i = 0; i < label.size(); ++i)
      if (label.data()[i] < 0 || label.data()[i] >= classes)
        raise_value(std::string(op) + ": y_true must lie in [0, " + number(classes) + ") to match y_pred " +
                    text(y_pred) + "; received " + number(label.data()[i]) + " at row " + number(i));
  }

  LossArgs<T> args(Loss kind, double parameter) const {
    LossArgs<T> a{};
    a.kind = kind;
    a.parameter = T(parameter);
    a.n = prediction.matrix.rows;
    a.width = prediction.matrix.cols;
    a.prediction = prediction.matrix.data;
    a.prediction_row = prediction.matrix.row;
    a.target = target.matrix.data;
    a.target_row = target.matrix.row;
    a.label = loss_takes_labels(kind) ? label.data() : nullptr;
    a.scale = T(1);
    return a;
  }
};

py::array loss_forward(int kind_, double parameter, const py::object& y_true, const py::object& y_pred) {
  const char* op = "loss_forward";
  Loss kind = loss_of(op, kind_);
  return by_dtype(op, "y_pred", as_array(op, "y_pred", y_pred), [&](auto zero) -> py::array {
    using T = decltype(zero);
    LossInputs<T> in(op, kind, y_true, y_pred);
    LossArgs<T> args = in.args(kind, parameter);
    py::array_t<double> losses(args.n);
    args.losses = losses.mutable_data();
    {
      const WithoutGil release;
      whole::loss<T>(args);
    }
    return losses;
  });
}

py::array loss_backward(int kind_, double parameter, const py::object& y_true, const py::object& y_pred,
                        const py::object& weights_, double scale, const py::object& out) {
  const char* op = "loss_backward";
  Loss kind = loss_of(op, kind_);
  return by_dtype(op, "y_pred", as_array(op, "y_pred", y_pred), [&](auto zero) -> py::array {
    using T = decltype(zero);
    LossInputs<T> in(op, kind, y_true, y_pred);
    Input<T> weights;
    LossArgs<T> args = in.args(kind, parameter);
    if (!weights_.is_none()) {
      py::array wa = as_array(op, "weights", weights_);
      check_shape(op, "weights", wa, {args.n}, "to match y_pred " + text(in.prediction.array));
      weights = Input<T>(op, "weights", wa);
      args.weights = weights.matrix.data;
    }
    Output<T> dy(op, out, shape_of(in.prediction.array));
    check_apart(op, "out", dy.matrix, in.prediction.matrix, in.target.matrix, weights.matrix);
    args.scale = T(scale);
    args.gradient = dy.matrix.data;
    args.gradient_row = dy.matrix.row;
    {
      const WithoutGil release;
      whole::loss<T>(args);
    }
    return dy.array;
  });
}

void sgd_update(const py::object& w_, const py::object& g_, const py::object& v_, double learning_rate, double momentum,
                bool nesterov) {
  const char* op = "sgd_update";
  py::array wa = as_array(op, "w", w_), ga = as_array(op, "g", g_);
  check_shape(op, "g", ga, shape_of(wa), "to match w");
  by_dtype(op, "w", wa, [&](auto zero) {
    using T = decltype(zero);
    Input<T> g(op, "g", ga);
    Output<T> w(op, "w", wa), v;
    if (!v_.is_none()) {
      py::array va = as_array(op, "v", v_);
      check_shape(op, "v", va, shape_of(wa), "to match w");
      v = Output<T>(op, "v", va);
    }
    check_apart(op, "w", w.matrix, g.matrix, v.matrix);
    check_apart(op, "v", v.matrix, g.matrix);
    const WithoutGil release;
    whole::sgd_update<T>(w.matrix, g.matrix, v.matrix, T(learning_rate), T(momentum), nesterov);
  });
}

py::array dropout_forward(const py::object& x_, double rate, uint64_t key, uint32_t stream, uint64_t step,
                          const py::object& out) {
  const char* op = "dropout_forward";
  if (!(rate >= 0 && rate < 1))
    raise_value("dropout_forward: rate must lie in [0, 1); received " + std::string(py::str(py::float_(rate))));
  py::array xa = as_array(op, "x", x_);
  check_dimensions(op, "x", xa, 2);
  return by_dtype(op, "x", xa, [&](auto zero) -> py::array {
    using T = decltype(zero);
    Input<T> x(op, "x", xa);
    Output<T> y(op, out, shape_of(xa));
    check_same_or_apart(op, "out", y.matrix, x.matrix);
    DropoutArgs<T> args{};
    args.n = x.matrix.rows;
    args.width = x.matrix.cols;
    args.x = x.matrix.data;
    args.x_row = x.matrix.row;
    args.y = y.matrix.data;
    args.y_row = y.matrix.row;
    args.threshold = dropout_threshold(rate);
    args.scale = dropout_scale<T>(rate);
    args.key = key;
    args.step = step;
    args.stream = stream;
    {
      const WithoutGil release;
      whole::dropout<T>(args);
    }
    return y.array;
  });
}

py::array philox(uint64_t key, uint32_t stream, uint64_t step, int64_t count) {
  if (count < 0) raise_value("philox: count must not be negative; received " + number(count));
  py::array_t<uint32_t> words(count);
  uint32_t* data = words.mutable_data();
  {
    const WithoutGil release;
    table().random_words(key, stream, step, 0, count, data);
  }
  return words;
}

py::array permutation_of(uint64_t key, uint32_t stream, uint64_t step, int64_t n) {
  if (n < 0) raise_value("permutation: n must not be negative; received " + number(n));
  py::array_t<int64_t> order(n);
  int64_t* data = order.mutable_data();
  {
    const WithoutGil release;
    permutation(key, stream, step, n, data);
  }
  return order;
}

}  // namespace

void register_kernels(py::module_& m) {
  using py::arg;
  py::none none;
  m.def("dense_forward", &dense_forward, arg("x"), arg("w"), arg("b"), arg("activation"), arg("alpha"),
        arg("out") = none);
  m.def("bfloat16_product", &bfloat16_product, arg("a"), arg("b"), arg("transpose_a") = false,
        arg("transpose_b") = false);
  m.def("leaves_out_zeros", &leaves_out_zeros, arg("a"), arg("columns"), arg("transpose_a") = false);
  m.def("dense_backward_input", &dense_backward_input, arg("dz"), arg("w"), arg("out") = none);
  m.def("dense_backward_weights", &dense_backward_weights, arg("x"), arg("dz"), arg("out") = none);
  m.def("dense_backward_bias", &dense_backward_bias, arg("dz"), arg("out") = none);
  m.def("activation_forward", &activation_forward, arg("activation"), arg("alpha"), arg("z"), arg("out") = none);
  m.def("activation_backward", &activation_backward, arg("activation"), arg("alpha"), arg("dy"), arg("saved"),
        arg("out") = none);
  m.def("loss_forward", &loss_forward, arg("kind"), arg("parameter"), arg("y_true"), arg("y_pred"));
  m.def("loss_backward", &loss_backward, arg("kind"), arg("parameter"), arg("y_true"), arg("y_pred"), arg("weights"),
        arg("scale"), arg("out") = none);
  m.def("sgd_update", &sgd_update, arg("w"), arg("g"), arg("v"), arg("learning_rate"), arg("momentum"),
        arg("nesterov"));
  m.def("dropout_forward", &dropout_forward, arg("x"), arg("rate"), arg("key"), arg("stream"), arg("step"),
        arg("out") = none);
  m.def("philox", &philox, arg("key"), arg("stream"), arg("step"), arg("count"));
  m.def("permutation", &permutation_of, arg("key"), arg("stream"), arg("step"), arg("n"));
}

}  // namespace fp::bindings
