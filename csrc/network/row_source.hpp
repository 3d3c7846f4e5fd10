// Where the rows of a batch come from: the caller's memory, gathered and converted row by row, or read in place.
// Dense matrices come first; sparse rows and integer ids are further kinds of the same interface.
#pragma once

#include <cstdint>
#include <vector>

namespace fp {

// Rows of T in the caller's memory, `row` elements apart.
template <class T>
struct RowsInPlace {
  const T* data = nullptr;
  int64_t row = 0;
};

class RowSource {
 public:
  virtual ~RowSource() = default;
  int64_t rows = 0;
  int64_t cols = 0;
  // Copies row index[begin + i] (or begin + i when index is nullptr) to out + i * out_row, for 0 <= i < count.
  virtual void gather(const int64_t* index, int64_t begin, int64_t count, float* out, int64_t out_row) const = 0;
  virtual void gather(const int64_t* index, int64_t begin, int64_t count, double* out, int64_t out_row) const = 0;
  // The same for one column of integers.
  virtual void gather(const int64_t* index, int64_t begin, int64_t count, int64_t* out, int64_t out_row) const = 0;
  // All rows, if they can be read as they lie: of the very type, their elements side by side. data is nullptr where
  // products would read gathered rows quicker, too.
  virtual void find(RowsInPlace<float>& rows) const { rows = {}; }
  virtual void find(RowsInPlace<double>& rows) const { rows = {}; }
};

enum class Element { b1, i8, i16, i32, i64, u8, u16, u32, u64, f16, f32, f64 };

// A dense matrix of any strides (in bytes) and alignment, in native byte order.
class DenseSource final : public RowSource {
 public:
  const char* data = nullptr;
  Element element = Element::f32;
  int64_t row_bytes = 0;
  int64_t col_bytes = 0;

  void gather(const int64_t* index, int64_t begin, int64_t count, float* out, int64_t out_row) const override;
  void gather(const int64_t* index, int64_t begin, int64_t count, double* out, int64_t out_row) const override;
  void gather(const int64_t* index, int64_t begin, int64_t count, int64_t* out, int64_t out_row) const override;
  void find(RowsInPlace<float>& rows) const override;
  void find(RowsInPlace<double>& rows) const override;

 private:
  template <class T>
  void gather_as(const int64_t* index, int64_t begin, int64_t count, T* out, int64_t out_row) const;
  template <class T>
  RowsInPlace<T> in_place(Element same) const;
};

// Several sources of as many rows, side by side.
class SideBySide final : public RowSource {
 public:
  void append(const RowSource& part) {
    parts_.push_back(&part);
    rows = part.rows;
    cols += part.cols;
  }
  void gather(const int64_t* index, int64_t begin, int64_t count, float* out, int64_t out_row) const override;
  void gather(const int64_t* index, int64_t begin, int64_t count, double* out, int64_t out_row) const override;
  void gather(const int64_t* index, int64_t begin, int64_t count, int64_t* out, int64_t out_row) const override;

 private:
  template <class T>
  void gather_as(const int64_t* index, int64_t begin, int64_t count, T* out, int64_t out_row) const;
  std::vector<const RowSource*> parts_;
};

}  // namespace fp
