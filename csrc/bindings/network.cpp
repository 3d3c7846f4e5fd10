// NetworkFloat32 and NetworkFloat64 as Python sees them: the names of the methods and of their arguments.
#include <pybind11/stl.h>

#include <cstdint>
#include <exception>
#include <string>

#include "bindings/errors.hpp"
#include "bindings/gil.hpp"
#include "bindings/predictor.hpp"
#include "bindings/py_network.hpp"

namespace fp::bindings {
namespace {

template <class T>
void bind(py::module_& m, const char* name) {
  using Py = PyNetwork<T>;
  using Part = typename Py::Part;
  py::class_<Py>(m, name, "A program with its whole state; see fastperceptron.backends.protocol.Network.")
      .def_property_readonly_static("backend", [](const py::object&) { return "native"; })
      .def_property_readonly("program", [](const Py& p) { return p.program(); })
      .def_property(
          "step", [](const Py& p) { return p.network().step(); }, [](Py& p, uint64_t v) { p.network().set_step(v); })
      .def_property(
          "key", [](const Py& p) { return p.network().key(); }, [](Py& p, uint64_t v) { p.network().set_key(v); })
      .def(
          "get_parameter", [](Py& p, int i) { return p.get(Part::parameter, i); }, py::arg("index"))
      .def(
          "set_parameter", [](Py& p, int i, const py::array& v) { p.set(Part::parameter, i, v); }, py::arg("index"),
          py::arg("value"))
      .def(
          "get_gradient", [](Py& p, int i) { return p.get(Part::gradient, i); }, py::arg("index"))
      .def(
          "set_gradient", [](Py& p, int i, const py::array& v) { p.set(Part::gradient, i, v); }, py::arg("index"),
          py::arg("value"))
      .def(
          "get_state", [](Py& p, int i) { return p.get(Part::state, i); }, py::arg("index"))
      .def(
          "set_state", [](Py& p, int i, const py::array& v) { p.set(Part::state, i, v); }, py::arg("index"),
          py::arg("value"))
      .def("slot_names", [](const Py& p) { return py::tuple(py::cast(p.network().slot_names())); })
      .def(
          "get_slot", [](Py& p, const std::string& s, int i) { return p.get_slot(s, i); }, py::arg("name"),
          py::arg("index"))
      .def(
          "set_slot", [](Py& p, const std::string& s, int i, const py::array& v) { p.set_slot(s, i, v); },
          py::arg("name"), py::arg("index"), py::arg("value"))
      .def(
          "set_threads", [](Py& p, int n) { p.network().set_threads(n); }, py::arg("threads"))
      .def("set_trainable", &Py::set_trainable, py::arg("flags"))
      .def("set_rates", &Py::set_rates, py::arg("rates"))
      .def("set_optimizer", &Py::set_optimizer, py::arg("name"), py::arg("hyper"))
      .def("set_heads", &Py::set_heads, py::arg("heads"))
      .def("set_loss", &Py::set_loss, py::arg("kind"), py::arg("parameter"))
      .def("set_metrics", &Py::set_metrics, py::arg("metrics"))
      .def("reset_metrics", [](Py& p) { p.network().reset_metrics(); })
      .def("get_metrics", &Py::get_metrics)
      .def(
          "train_steps",
          [](Py& p, const py::object& x, const py::object& y, const py::object& w, const py::object& rows, int64_t size,
             int64_t begin, int64_t end,
             double budget) { return p.steps(true, x, y, w, rows, size, begin, end, budget); },
          py::arg("x"), py::arg("y"), py::arg("sample_weight"), py::arg("rows"), py::arg("batch_size"),
          py::arg("begin"), py::arg("end"), py::arg("budget"))
      .def(
          "evaluate_steps",
          [](Py& p, const py::object& x, const py::object& y, const py::object& w, const py::object& rows, int64_t size,
             int64_t begin, int64_t end,
             double budget) { return p.steps(false, x, y, w, rows, size, begin, end, budget); },
          py::arg("x"), py::arg("y"), py::arg("sample_weight"), py::arg("rows"), py::arg("batch_size"),
          py::arg("begin"), py::arg("end"), py::arg("budget"))
      .def("predict", &Py::predict, py::arg("x"), py::arg("out"), py::arg("begin"), py::arg("end"), py::arg("budget"))
      .def(
          "predictor",
          [](Py& p, const py::object& signature) {
            return make_predictor(p.network().predictor(), p.program(), signature);
          },
          py::arg("signature"))
      .def("load_batch", &Py::load_batch, py::arg("x"), py::arg("y"), py::arg("sample_weight"), py::arg("rows"),
           py::arg("begin"), py::arg("end"))
      .def(
          "forward",
          [](Py& p, int first, int last, bool training) {
            const WithoutGil nogil;  // C++ state only
            p.network().forward(first, last, training);
          },
          py::arg("first"), py::arg("last"), py::arg("training"))
      .def(
          "get_value", [](Py& p, int v) { return p.get_value(v, false); }, py::arg("value"))
      .def(
          "set_value", [](Py& p, int v, const py::array& a) { p.set_value(v, a, false); }, py::arg("value"),
          py::arg("array"))
      .def(
          "loss",
          [](Py& p, bool training) {
            const WithoutGil nogil;  // C++ state only
            return p.network().judge(training);
          },
          py::arg("training"))
      .def(
          "get_value_gradient", [](Py& p, int v) { return p.get_value(v, true); }, py::arg("value"))
      .def(
          "set_value_gradient", [](Py& p, int v, const py::array& a) { p.set_value(v, a, true); }, py::arg("value"),
          py::arg("array"))
      .def(
          "backward",
          [](Py& p, int first, int last) {
            const WithoutGil nogil;  // C++ state only
            p.network().backward(first, last);
          },
          py::arg("first"), py::arg("last"))
      .def("update",
           [](Py& p) {
             const WithoutGil nogil;  // C++ state only
             p.network().update();
           })
      .def("advance", [](Py& p) { p.network().advance(); })
      .def("is_finite", [](Py& p) { return p.network().is_finite(); })
      .def("product_path", [](Py& p) { return p.network().product_path(); })
      .def(
          "useful_threads",
          [](const Py& p, int64_t rows, bool training) { return p.network().useful_threads(rows, training); },
          py::arg("rows"), py::arg("training"))
      .def("step_threads", [](Py& p, int64_t rows) { return p.network().step_threads(rows); }, py::arg("rows"));
}

// pybind11 takes an object over and then finds memory to register it. Where there is none, it frees the object without
// destroying it: nobody else may own it by then, and an empty one loses nothing.
template <class T>
py::object network_of(const py::object& program) {
  py::object network = py::cast(new PyNetwork<T>(), py::return_value_policy::take_ownership);
  py::cast<PyNetwork<T>&>(network).make(program);
  return network;
}

}  // namespace

void register_network(py::module_& m) {
  py::register_exception_translator([](std::exception_ptr e) {
    try {
      if (e) std::rethrow_exception(e);
    } catch (const Busy& busy) {
      py::set_error(py::module_::import("fastperceptron.errors").attr("ModelBusyError"), busy.what());
    }
  });
  bind<float>(m, "NetworkFloat32");
  bind<double>(m, "NetworkFloat64");
  m.def(
      "Network",
      [](const py::object& program) -> py::object {
        const auto dtype = py::cast<std::string>(program.attr("dtype"));
        if (dtype == "float32" || dtype == "mixed_bfloat16") return network_of<float>(program);
        if (dtype == "float64") return network_of<double>(program);
        raise_dtype("Network: expected float32, float64 or mixed_bfloat16, received " + dtype);
      },
      py::arg("program"), "The network of a program, of the class that its dtype asks for.");
}

}  // namespace fp::bindings
