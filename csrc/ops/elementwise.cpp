#include "ops/share.hpp"
#include "ops/whole.hpp"
#include "runtime/dispatch.hpp"

namespace fp::whole {
namespace {

// Elements one thread should have before another is worth waking: arithmetic of a few cycles each (exp and kin),
// and one that only moves memory.
constexpr double kLeastArithmetic = 32e3;
constexpr double kLeastMoved = 64e3;

constexpr int64_t kGrain = 64;  // elements: whole vectors on every instruction set, whole cache lines

double least(Activation a) {
  bool cheap = a == Activation::linear || a == Activation::relu || a == Activation::leaky_relu || a == Activation::step;
  return cheap ? kLeastMoved : kLeastArithmetic;
}

template <class T>
bool contiguous(Matrix<T> m) {
  return m.row == m.cols || m.rows <= 1;
}

template <class T>
T* at(Matrix<T> m, int64_t row) {
  return m.data ? m.data + row * m.row : nullptr;
}

}  // namespace

template <class T>
void activation_forward(Activation activation, T alpha, Matrix<const T> z, Matrix<T> y) {
  if (y.cols == 0) return;
  const Kernels<T>& k = kernels<T>();
  int threads = threads_for(double(y.rows) * double(y.cols), least(activation));
  if (activation == Activation::softmax) {
    share(threads, y.rows, 1,
          [&](Range r) { k.softmax_forward(r.size(), y.cols, at(z, r.begin), z.row, at(y, r.begin), y.row); });
  } else if (contiguous(z) && contiguous(y)) {
    share(threads, y.rows * y.cols, kGrain,
          [&](Range r) { k.activation_forward(activation, alpha, r.size(), z.data + r.begin, y.data + r.begin); });
  } else {
    share(threads, y.rows, 1, [&](Range r) {
      for (int64_t i = r.begin; i < r.end; ++i) k.activation_forward(activation, alpha, y.cols, at(z, i), at(y, i));
    });
  }
}

template <class T>
void activation_backward(Activation activation, T alpha, Matrix<const T> dy, Matrix<const T> saved, Matrix<T> dz) {
  if (dz.cols == 0) return;
  const Kernels<T>& k = kernels<T>();
  int threads = threads_for(double(dz.rows) * double(dz.cols), least(activation));
  if (activation == Activation::softmax) {
    share(threads, dz.rows, 1, [&](Range r) {
      k.softmax_backward(r.size(), dz.cols, at(dy, r.begin), dy.row, at(saved, r.begin), saved.row, at(dz, r.begin),
                         dz.row);
    });
  } else if (contiguous(dy) && contiguous(saved) && contiguous(dz)) {
    share(threads, dz.rows * dz.cols, kGrain, [&](Range r) {
      k.activation_backward(activation, alpha, r.size(), dy.data + r.begin, saved.data + r.begin, dz.data + r.begin);
    });
  } else {
    share(threads, dz.rows, 1, [&](Range r) {
      for (int64_t i = r.begin; i < r.end; ++i)
        k.activation_backward(activation, alpha, dz.cols, at(dy, i), at(saved, i), at(dz, i));
    });
  }
}

template <class T>
void loss(const LossArgs<T>& args) {
  const Kernels<T>& k = kernels<T>();
  share(threads_for(double(args.n) * double(args.width), kLeastArithmetic), args.n, 1, [&](Range r) {
    LossArgs<T> part = args;
    part.n = r.size();
    part.prediction += r.begin * args.prediction_row;
    if (part.target) part.target += r.begin * args.target_row;
    if (part.label) part.label += r.begin;
    if (part.weights) part.weights += r.begin;
    if (part.losses) part.losses += r.begin;
    if (part.gradient) part.gradient += r.begin * args.gradient_row;
    k.loss(part);
  });
}

template <class T>
void dropout(const DropoutArgs<T>& args) {
  const Kernels<T>& k = kernels<T>();
  share(threads_for(double(args.n) * double(args.width), kLeastArithmetic), args.n, 1, [&](Range r) {
    DropoutArgs<T> part = args;
    part.n = r.size();
    part.row0 += r.begin;
    part.x += r.begin * args.x_row;
    part.y += r.begin * args.y_row;
    k.dropout(part);
  });
}

template <class T>
void sgd_update(Matrix<T> w, Matrix<const T> g, Matrix<T> v, T learning_rate, T momentum, bool nesterov) {
  const Kernels<T>& k = kernels<T>();
  int threads = threads_for(double(w.rows) * double(w.cols), kLeastMoved);
  if (contiguous(w) && contiguous(g) && (!v.data || contiguous(v))) {
    share(threads, w.rows * w.cols, kGrain, [&](Range r) {
      T* velocity = v.data ? v.data + r.begin : nullptr;
      k.sgd_update(r.size(), w.data + r.begin, g.data + r.begin, velocity, learning_rate, momentum, nesterov);
    });
  } else {
    share(threads, w.rows, 1, [&](Range r) {
      for (int64_t i = r.begin; i < r.end; ++i)
        k.sgd_update(w.cols, at(w, i), at(g, i), at(v, i), learning_rate, momentum, nesterov);
    });
  }
}

#define FP_INSTANTIATE(T)                                                                           \
  template void activation_forward<T>(Activation, T, Matrix<const T>, Matrix<T>);                   \
  template void activation_backward<T>(Activation, T, Matrix<const T>, Matrix<const T>, Matrix<T>); \
  template void loss<T>(const LossArgs<T>&);                                                        \
  template void dropout<T>(const DropoutArgs<T>&);                                                  \
  template void sgd_update<T>(Matrix<T>, Matrix<const T>, Matrix<T>, T, T, bool);
FP_INSTANTIATE(float)
FP_INSTANTIATE(double)
#undef FP_INSTANTIATE

}  // namespace fp::whole
