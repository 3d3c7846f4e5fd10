// Checked views of NumPy arrays. Kernels want rows of adjacent, aligned elements at a positive stride: inputs that
// are laid out otherwise are copied into private memory, outputs are refused, never silently copied.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>
#include <vector>

#include "bindings/errors.hpp"
#include "ops/dense.hpp"

namespace fp::bindings {

namespace py = pybind11;
using ops::Matrix;
using Shape = std::vector<py::ssize_t>;

inline Shape shape_of(const py::array& a) { return Shape(a.shape(), a.shape() + a.ndim()); }

inline std::string text(const Shape& shape) {
  std::string s = "(";
  for (size_t i = 0; i < shape.size(); ++i) s += (i ? ", " : "") + std::to_string(shape[i]);
  return s + (shape.size() == 1 ? ",)" : ")");
}

inline std::string text(const py::array& a) { return text(shape_of(a)); }

// The argument as an array, which no conversion could make it without hiding a copy.
inline py::array as_array(const char* operation, const char* name, const py::object& object) {
  if (!py::isinstance<py::array>(object))
    raise_dtype(std::string(operation) + ": " + name + " must be a numpy.ndarray; received " +
                std::string(py::str(py::type::of(object).attr("__name__"))));
  return py::reinterpret_borrow<py::array>(object);
}

template <class T>
void check_dtype(const char* operation, const char* name, const py::array& a) {
  if (!py::isinstance<py::array_t<T>>(a))  // false for swapped bytes as well
    raise_dtype(std::string(operation) + ": " + name + " must be " + std::string(py::str(py::dtype::of<T>())) +
                "; received " + std::string(py::str(a.dtype())));
}

// Calls f(T()) with the element type of a, float or double.
template <class F>
auto by_dtype(const char* operation, const char* name, const py::array& a, const F& f) {
  if (py::isinstance<py::array_t<float>>(a)) return f(float());
  if (py::isinstance<py::array_t<double>>(a)) return f(double());
  raise_dtype(std::string(operation) + ": " + name + " must be float32 or float64 in native byte order; received " +
              std::string(py::str(a.dtype())));
}

inline void check_shape(const char* operation, const char* name, const py::array& a, const Shape& expected,
                        const std::string& why) {
  if (shape_of(a) != expected)
    raise_shape(std::string(operation) + ": " + name + " must have shape " + text(expected) + " " + why +
                "; received " + text(a));
}

inline void check_dimensions(const char* operation, const char* name, const py::array& a, py::ssize_t expected) {
  if (a.ndim() != expected)
    raise_shape(std::string(operation) + ": " + name + " must have " + std::to_string(expected) +
                (expected == 1 ? " dimension" : " dimensions") + "; received shape " + text(a));
}

// The array as (rows, cols), cols being its last axis. False when the rows are not adjacent, aligned elements
// or not at one positive distance from each other.
template <class T>
bool as_matrix(const py::array& a, Matrix<T>& out) {
  constexpr int64_t item = sizeof(T);
  py::ssize_t last = a.ndim() - 1;
  int64_t rows = 1, cols = last < 0 ? 1 : a.shape(last), step = 0;
  out = {static_cast<T*>(const_cast<void*>(a.data())), 0, cols, cols};
  for (py::ssize_t axis = 0; axis < last; ++axis) rows *= a.shape(axis);
  out.rows = rows;
  if (a.size() == 0) return true;
  if (reinterpret_cast<std::uintptr_t>(a.data()) % alignof(T) != 0) return false;
  if (cols > 1 && a.strides(last) != item) return false;
  rows = 1;
  for (py::ssize_t axis = last - 1; axis >= 0; --axis) {
    if (a.shape(axis) == 1) continue;
    if (rows == 1)
      step = a.strides(axis);
    else if (a.strides(axis) != step * rows)
      return false;
    rows *= a.shape(axis);
  }
  if (rows > 1) {
    if (step < cols * item || step % item != 0) return false;
    out.row = step / item;
  }
  return true;
}

// An input: a view, or a private copy where the layout asks for one. Holds what it points into.
template <class T>
struct Input {
  py::array array;
  Matrix<const T> matrix{nullptr, 0, 0, 0};

  Input() = default;
  Input(const char* operation, const char* name, const py::array& a) : array(a) {
    check_dtype<T>(operation, name, a);
    if (as_matrix(array, matrix)) return;
    array = py::array(py::module_::import("numpy").attr("array")(a, py::arg("order") = "C"));
    if (!as_matrix(array, matrix)) raise_value(std::string(operation) + ": " + name + " cannot be laid out in rows");
  }
};

// An array that is written to.
template <class T>
struct Output {
  py::array array;
  Matrix<T> matrix{nullptr, 0, 0, 0};

  Output() = default;
  Output(const char* operation, const char* name, const py::array& a) : array(a) {
    std::string what = std::string(operation) + ": " + name;
    check_dtype<T>(operation, name, a);
    if (!a.writeable()) raise_value(what + " must be writeable; received a read-only array");
    if (!as_matrix(array, matrix))
      raise_value(what + " must be aligned, with adjacent elements in each row and rows in order; received strides " +
                  text(Shape(a.strides(), a.strides() + a.ndim())));
  }
  // The caller's `out`, or a fresh array when it is None.
  Output(const char* operation, const py::object& out, const Shape& shape)
      : Output(operation, "out", out.is_none() ? py::array(py::array_t<T>(shape)) : as_array(operation, "out", out)) {
    check_shape(operation, "out", array, shape, "as the result has");
  }
};

// Whether any element belongs to both.
template <class A, class B>
bool overlap(const Matrix<A>& a, const Matrix<B>& b) {
  using std::uintptr_t;
  if (a.rows <= 0 || a.cols <= 0 || b.rows <= 0 || b.cols <= 0) return false;
  auto address = [](const auto& m, int64_t row) {
    return static_cast<int64_t>(reinterpret_cast<uintptr_t>(m.data)) + row * m.row * int64_t(sizeof(*m.data));
  };
  int64_t a_width = a.cols * int64_t(sizeof(A)), b_width = b.cols * int64_t(sizeof(B));
  int64_t a_first = address(a, 0), a_step = a.row * int64_t(sizeof(A));
  if (address(b, b.rows - 1) + b_width <= a_first || address(a, a.rows - 1) + a_width <= address(b, 0)) return false;
  // The boxes meet, but column slices of one array can still be apart: ask each row of b for the rows of a it may meet.
  for (int64_t i = 0; i < b.rows; ++i) {
    int64_t low = address(b, i), high = low + b_width;  // row r of a meets it when r a_step lies in (first, last)
    int64_t first = low - a_width - a_first, last = high - a_first;
    int64_t row = first < 0 ? 0 : first / a_step + 1;
    if (row < a.rows && row * a_step < last) return true;
  }
  return false;
}

template <class A, class B>
bool identical(const Matrix<A>& a, const Matrix<B>& b) {
  return static_cast<const void*>(a.data) == static_cast<const void*>(b.data) && a.rows == b.rows && a.cols == b.cols &&
         (a.row == b.row || a.rows <= 1);
}

template <class T, class... Matrices>
void check_apart(const char* operation, const char* name, const Matrix<T>& out, const Matrices&... others) {
  if ((overlap(out, others) || ...))
    raise_value(std::string(operation) + ": " + name +
                " must share no memory with the other arrays; received one that does");
}

// In-place work is fine; a shifted view of the same memory is not.
template <class T, class... Matrices>
void check_same_or_apart(const char* operation, const char* name, const Matrix<T>& out, const Matrices&... others) {
  if (((!identical(out, others) && overlap(out, others)) || ...))
    raise_value(std::string(operation) + ": " + name +
                " must be the input itself or share no memory with it; received one that overlaps it in part");
}

}  // namespace fp::bindings
