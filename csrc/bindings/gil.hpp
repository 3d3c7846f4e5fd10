// Giving up the interpreter's lock, and taking it back.
//
// Before Python 3.14 a thread that asks for the lock while the interpreter exits is ended by unwinding its stack, which
// in C++ ends the process at the first destructor: that of pybind11's guards, for one. And one that asks when the
// interpreter is no more reads what has been freed. These let such a thread sleep until the process is over, as Python
// itself does from 3.14 on.
#pragma once

#include <Python.h>

#include <chrono>
#include <thread>

namespace fp::bindings {

[[noreturn]] inline void sleep_on() {
  for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
}

template <class F>
void take_lock(const F& take) {
  try {
    if (!Py_IsInitialized()) sleep_on();
    take();
  } catch (...) {
    sleep_on();  // in here: an unwinding that is caught must not be left behind
  }
}

// The lock is given up while this exists.
class WithoutGil {
 public:
  WithoutGil() : state_(PyEval_SaveThread()) {}
  ~WithoutGil() {
    take_lock([this] { PyEval_RestoreThread(state_); });
  }
  WithoutGil(const WithoutGil&) = delete;

 private:
  PyThreadState* state_;
};

// And held again while this does, by a thread that came from Python.
class WithGil {
 public:
  WithGil() {
    take_lock([this] { state_ = PyGILState_Ensure(); });
  }
  ~WithGil() { PyGILState_Release(state_); }
  WithGil(const WithGil&) = delete;

 private:
  PyGILState_STATE state_;
};

}  // namespace fp::bindings
