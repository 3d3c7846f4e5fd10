// Losses of predictions against targets, row by row, with their gradients. See LossArgs in table.hpp.
//
// An elementwise loss is the mean over the columns of
//   mean_squared_error    (p - t)^2
//   mean_absolute_error   |p - t|                              derivative 0 at 0
//   huber                 d^2 / 2 for |d| <= delta, else delta (|d| - delta / 2), d = p - t
//   binary_cross_entropy  -(t log c + (1 - t) log(1 - c)), c = p clipped; derivative 0 where clipped
//       ... from logits   max(p, 0) - p t + log(1 + e^-|p|)
//   hinge                 max(0, 1 - s p), s = +1 for t > 0, else -1
//   perceptron            max(0, -s p); p = 0 is a mistake: derivative -s there (Rosenblatt's rule)
// Cross-entropies over the row's classes are sums; targets need not add up to 1:
//   categorical           -sum t log c, c = p clipped, rows not normalised; derivative -t / p, 0 where clipped
//       ... from logits   sum t (log sum e^p - p); gradient softmax(p) sum(t) - t; a class with t = 0 adds nothing,
//                         even at p = -infinity
//   sparse                the same with t = 1 at the label, else 0
//
// The gradient is (scale weight / columns) times the derivative, rounded in that order; a weight of 0 therefore
// gives 0 only for a finite derivative. Sums run in 16 virtual lanes and the fixed tree.
#pragma once

#include "kernels/math.hpp"
#include "kernels/softmax.hpp"
#include "kernels/table.hpp"

namespace fp::FP_ISA_NAMESPACE {

template <class T>
inline constexpr T kProbabilityLowest = T(probability_epsilon);
template <class T>
inline constexpr T kProbabilityHighest = T(1) - T(probability_epsilon);

template <class T>
struct LossTerm {
  Vec<T> value, slope;  // of one element, and its derivative with respect to the prediction
};

template <Loss kind, class T>
FP_INLINE LossTerm<T> loss_term(Vec<T> p, Vec<T> t, [[maybe_unused]] T parameter) {
  const Vec<T> one = broadcast(T(1));
  [[maybe_unused]] const Vec<T> difference = sub(p, t);
  if constexpr (kind == Loss::mean_squared_error) {
    return {mul(difference, difference), add(difference, difference)};
  } else if constexpr (kind == Loss::mean_absolute_error) {
    Vec<T> sign = select(eq(difference, zero<T>()), zero<T>(), copysign(one, difference));
    return {abs(difference), select(is_nan(difference), difference, sign)};
  } else if constexpr (kind == Loss::huber) {
    const Vec<T> delta = broadcast(parameter), half = broadcast(T(0.5));
    Vec<T> size = abs(difference);
    Mask<T> far = gt(size, delta);
    return {select(far, mul(delta, fnma(half, delta, size)), mul(half, mul(difference, difference))),
            select(far, copysign(delta, difference), difference)};
  } else if constexpr (kind == Loss::binary_cross_entropy) {
    const Vec<T> lowest = broadcast(kProbabilityLowest<T>), highest = broadcast(kProbabilityHighest<T>);
    Vec<T> c = min(highest, max(lowest, p));
    Vec<T> value = fma(t, log(c), mul(sub(one, t), log1p(neg(c))));
    Vec<T> slope = div(sub(c, t), mul(c, sub(one, c)));
    return {neg(value), select(mask_or(lt(p, lowest), gt(p, highest)), zero<T>(), slope)};
  } else if constexpr (kind == Loss::binary_cross_entropy_logits) {
    Vec<T> e = exp_minus_abs(p);
    Vec<T> linear = fnma(p, t, select(lt(p, zero<T>()), zero<T>(), p));
    return {add(linear, log1p_unit(e)), sub(sigmoid_from(p, e), t)};
  } else if constexpr (kind == Loss::categorical_cross_entropy) {
    const Vec<T> lowest = broadcast(kProbabilityLowest<T>), highest = broadcast(kProbabilityHighest<T>);
    Vec<T> c = min(highest, max(lowest, p)), minus_t = neg(t);
    return {mul(minus_t, log(c)), select(mask_or(lt(p, lowest), gt(p, highest)), zero<T>(), div(minus_t, c))};
  } else {
    static_assert(kind == Loss::hinge || kind == Loss::perceptron);
    Vec<T> sign = select(gt(t, zero<T>()), one, neg(one)), margin;
    Mask<T> mistake;
    if constexpr (kind == Loss::hinge) {
      margin = fnma(sign, p, one);
      mistake = gt(margin, zero<T>());
    } else {
      margin = neg(mul(sign, p));
      mistake = ge(margin, zero<T>());
    }
    Vec<T> rest = select(is_nan(margin), margin, zero<T>());
    return {select(lt(margin, zero<T>()), zero<T>(), margin), select(mistake, neg(sign), rest)};
  }
}

template <class T>
FP_INLINE T loss_row_scale(const LossArgs<T>& a, int64_t i) {
  return a.weights ? a.scale * a.weights[i] : a.scale;
}

// Columns of width 1, without gaps: a register holds rows. The bits are those of the general loop.
template <Loss kind, class T>
FP_INLINE void loss_single_column(const LossArgs<T>& a) {
  constexpr int lanes = Vec<T>::lanes;
  for (int64_t i = 0; i < a.n; i += lanes) {
    const int64_t part = a.n - i < lanes ? a.n - i : lanes;
    LossTerm<T> term = loss_term<kind>(load_part(a.prediction + i, part), load_part(a.target + i, part), a.parameter);
    if (a.losses) {
      Vec<T> value = add(term.value, zero<T>());
      for (int64_t k = 0; k < part; ++k) a.losses[i + k] = double(value.v[k]);
    }
    if (a.gradient) {
      Vec<T> coefficient = broadcast(a.scale);
      if (a.weights) coefficient = mul(coefficient, load_part(a.weights + i, part));
      store_part(a.gradient + i, part, mul(coefficient, term.slope));
    }
  }
}

template <Loss kind, class T>
FP_INLINE void loss_elementwise(const LossArgs<T>& a) {
  constexpr int lanes = Vec<T>::lanes, registers = Wide<T>::registers;
  if (a.width == 1 && a.prediction_row == 1 && a.target_row == 1 && (!a.gradient || a.gradient_row == 1))
    return loss_single_column<kind>(a);
  const T divisor = kind == Loss::categorical_cross_entropy ? T(1) : T(a.width);
  for (int64_t i = 0; i < a.n; ++i) {
    const T* prediction = a.prediction + i * a.prediction_row;
    const T* target = a.target + i * a.target_row;
    T* gradient = a.gradient ? a.gradient + i * a.gradient_row : nullptr;
    const Vec<T> coefficient = broadcast(loss_row_scale(a, i) / divisor);
    Wide<T> sum = wide_broadcast(T(0));
    for (int64_t block = 0; block < a.width; block += 16) {
      for (int r = 0; r < registers; ++r) {
        const int64_t j = block + r * lanes, left = a.width - j, part = left < lanes ? left : lanes;
        if (part <= 0) break;
        Vec<T> p = part == lanes ? load(prediction + j) : load_part(prediction + j, part);
        Vec<T> t = part == lanes ? load(target + j) : load_part(target + j, part);
        LossTerm<T> term = loss_term<kind>(p, t, a.parameter);
        sum.r[r] = add(sum.r[r], part == lanes ? term.value : select(mask_first<T>(part), term.value, zero<T>()));
        if (!gradient) continue;
        Vec<T> g = mul(coefficient, term.slope);
        if (part == lanes) {
          store(gradient + j, g);
        } else {
          store_part(gradient + j, part, g);
        }
      }
    }
    if (a.losses) a.losses[i] = double(wide_sum(sum).v[0] / divisor);
  }
}

// log_of[i] and the rest of 16 rows: their logarithms are taken together.
template <class T>
struct LossBatch {
  T log_of[16], times[16], minus[16];  // loss = times log(log_of) - minus
};

template <class T>
FP_INLINE void loss_batch_finish(const LossBatch<T>& batch, int64_t n, double* losses) {
  T loss[16];
  for (int k = 0; k < 16; k += Vec<T>::lanes)
    store(loss + k, sub(mul(load(batch.times + k), log(load(batch.log_of + k))), load(batch.minus + k)));
  for (int64_t k = 0; k < n; ++k) losses[k] = double(loss[k]);
}

template <class T>
inline constexpr T kNumbers[48] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15,
                                   16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31,
                                   32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47};

// 1 where `numbers` is the label, else 0.
template <class T>
FP_INLINE Vec<T> one_hot(const T* numbers, T label) {
  return select(eq(load(numbers), broadcast(label)), broadcast(T(1)), zero<T>());
}

// e^gap, t and t gap, added up.
template <bool labels, class T>
struct CrossEntropySums {
  Wide<T> exponentials = wide_broadcast(T(0)), targets = wide_broadcast(T(0)), products = wide_broadcast(T(0));

  // A register, the r-th of the virtual lanes; its e^gap.
  FP_INLINE_MEMBER Vec<T> take(int r, Vec<T> z, Vec<T> highest, Vec<T> t) {
    const Vec<T> gap = sub(z, highest), e = exp_nonpositive(gap);
    exponentials.r[r] = add(exponentials.r[r], e);
    if constexpr (!labels) {
      targets.r[r] = add(targets.r[r], t);
      products.r[r] = add(products.r[r], select(eq(t, zero<T>()), zero<T>(), mul(t, gap)));
    }
    return e;
  }
};

// coefficient (e inverse total - t)
template <class T>
FP_INLINE Vec<T> cross_entropy_gradient(Vec<T> e, Vec<T> t, Vec<T> inverse, Vec<T> total, Vec<T> coefficient) {
  return mul(coefficient, fms(mul(e, inverse), total, t));
}

// What a row's loss is made of: total log(sum) - rest.
template <class T>
struct CrossEntropyRow {
  T sum, total, rest;
};

template <bool labels, class T>
FP_INLINE CrossEntropyRow<T> cross_entropy_row(const CrossEntropySums<labels, T>& sums, const LossArgs<T>& a, int64_t i,
                                               Vec<T> highest, Vec<T> sum, Vec<T> total) {
  if constexpr (labels)
    return {sum.v[0], total.v[0], a.prediction[i * a.prediction_row + a.label[i]] - highest.v[0]};
  else
    return {sum.v[0], total.v[0], wide_sum(sums.products).v[0]};
}

// Row i of at most 8 halves columns, which stays in registers where there are enough of them. Register q holds virtual
// lanes of its own, beginning with the first again after 16 columns.
template <int halves, bool labels, class T>
FP_INLINE CrossEntropyRow<T> cross_entropy_short_row(const LossArgs<T>& a, int64_t i) {
  constexpr int lanes = Vec<T>::lanes, wide = Wide<T>::registers, used = halves * 8 / lanes;
  const T* z = a.prediction + i * a.prediction_row;
  Vec<T> e[used], t[used];
  Wide<T> highest_lanes = wide_broadcast(-T(__builtin_inf()));
  FP_UNROLL for (int q = 0; q < used; ++q) {
    e[q] = load_row(z, q * lanes, a.width, -T(__builtin_inf()));
    t[q] = labels ? zero<T>() : load_row(a.target + i * a.target_row, q * lanes, a.width, T(0));
    highest_lanes.r[q % wide] = q < wide ? e[q] : max(e[q], highest_lanes.r[q % wide]);
  }
  const Vec<T> highest = wide_max(highest_lanes), one = broadcast(T(1));
  CrossEntropySums<labels, T> sums;
  FP_UNROLL for (int q = 0; q < used; ++q) e[q] = sums.take(q % wide, e[q], highest, t[q]);
  const Vec<T> sum = wide_sum(sums.exponentials), total = labels ? one : wide_sum(sums.targets);
  if (a.gradient) {
    const Vec<T> coefficient = broadcast(loss_row_scale(a, i)), inverse = div(one, sum);
    FP_UNROLL for (int q = 0; q < used; ++q) {
      if constexpr (labels) t[q] = one_hot(kNumbers<T> + q * lanes, T(a.label[i]));
      store_row(a.gradient + i * a.gradient_row, q * lanes, a.width,
                cross_entropy_gradient(e[q], t[q], inverse, total, coefficient));
    }
  }
  return cross_entropy_row(sums, a, i, highest, sum, total);
}

// Row i of any width: what the registers do not hold lies in the gradient meanwhile.
template <bool labels, class T>
FP_INLINE CrossEntropyRow<T> cross_entropy_long_row(const LossArgs<T>& a, int64_t i) {
  constexpr int lanes = Vec<T>::lanes, wide = Wide<T>::registers;
  const T *z = a.prediction + i * a.prediction_row, *target = labels ? nullptr : a.target + i * a.target_row;
  T* gradient = a.gradient ? a.gradient + i * a.gradient_row : nullptr;
  const Vec<T> highest = row_max(z, a.width), one = broadcast(T(1));
  CrossEntropySums<labels, T> sums;
  for (int64_t j = 0; j < a.width; j += 16) {
    const Wide<T> t = labels ? wide_broadcast(T(0)) : wide_load_row(target, j, a.width, T(0));
    Wide<T> e = wide_load_row(z, j, a.width, -T(__builtin_inf()));
    for (int r = 0; r < wide; ++r) e.r[r] = sums.take(r, e.r[r], highest, t.r[r]);
    if (gradient) wide_store_row(gradient, j, a.width, e);
  }
  const Vec<T> sum = wide_sum(sums.exponentials), total = labels ? one : wide_sum(sums.targets);
  if (gradient) {
    const Vec<T> coefficient = broadcast(loss_row_scale(a, i)), inverse = div(one, sum);
    // With labels t is zero, but in one register, which is stored again.
    const int64_t label = labels ? a.label[i] : 0, at = label / lanes * lanes;
    const Vec<T> e_at = load_row(gradient, at, a.width, T(0));
    for (int64_t j = 0; j < a.width; j += 16) {
      const Wide<T> t = labels ? wide_broadcast(T(0)) : wide_load_row(target, j, a.width, T(0));
      Wide<T> e = wide_load_row(gradient, j, a.width, T(0));
      for (int r = 0; r < wide; ++r) e.r[r] = cross_entropy_gradient(e.r[r], t.r[r], inverse, total, coefficient);
      wide_store_row(gradient, j, a.width, e);
    }
    if constexpr (labels) {
      const Vec<T> t = one_hot(kNumbers<T>, T(label - at));
      store_row(gradient, at, a.width, cross_entropy_gradient(e_at, t, inverse, total, coefficient));
    }
  }
  return cross_entropy_row(sums, a, i, highest, sum, total);
}

// Labels in float32 are frequent enough for the code of more widths.
template <bool labels, class T>
FP_INLINE CrossEntropyRow<T> cross_entropy_any_row(const LossArgs<T>& a, int64_t i) {
  if constexpr (labels && sizeof(T) == 4) {
    if constexpr (Wide<T>::registers > 1) {
      if (a.width <= 8) return cross_entropy_short_row<1, labels>(a, i);
      if (a.width > 16 && a.width <= 24) return cross_entropy_short_row<3, labels>(a, i);
      if (a.width > 32 && a.width <= 40) return cross_entropy_short_row<5, labels>(a, i);
    }
    if (a.width > 32 && a.width <= 48) return cross_entropy_short_row<6, labels>(a, i);
  }
  if (a.width <= 16) return cross_entropy_short_row<2, labels>(a, i);
  if (a.width <= 32) return cross_entropy_short_row<4, labels>(a, i);
  return cross_entropy_long_row<labels>(a, i);
}

template <bool labels, class T>
FP_INLINE void loss_cross_entropy_logits(const LossArgs<T>& a) {
  LossBatch<T> batch{};
  for (int64_t i = 0; i < a.n; ++i) {
    const CrossEntropyRow<T> row = cross_entropy_any_row<labels>(a, i);
    const int64_t k = i % 16;
    batch.log_of[k] = row.sum;
    batch.times[k] = row.total;
    batch.minus[k] = row.rest;
    if (a.losses && (k == 15 || i + 1 == a.n)) loss_batch_finish(batch, k + 1, a.losses + i - k);
  }
}

template <class T>
FP_INLINE void loss_sparse_probabilities(const LossArgs<T>& a) {
  LossBatch<T> batch{};
  for (int64_t i = 0; i < a.n; ++i) {
    const T p = a.prediction[i * a.prediction_row + a.label[i]];
    const bool below = p<kProbabilityLowest<T>, above = p> kProbabilityHighest<T>;
    const int64_t k = i % 16;
    batch.log_of[k] = below ? kProbabilityLowest<T> : above ? kProbabilityHighest<T> : p;
    batch.times[k] = T(-1);
    if (a.losses && (k == 15 || i + 1 == a.n)) loss_batch_finish(batch, k + 1, a.losses + i - k);
    if (!a.gradient) continue;
    T* gradient = a.gradient + i * a.gradient_row;
    for (int64_t j = 0; j < a.width; ++j) gradient[j] = T(0);
    gradient[a.label[i]] = below || above ? T(0) : loss_row_scale(a, i) * (T(-1) / p);
  }
}

template <class T>
static void loss_rows(const LossArgs<T>& a) {
  switch (a.kind) {
    case Loss::mean_squared_error:
      return loss_elementwise<Loss::mean_squared_error>(a);
    case Loss::mean_absolute_error:
      return loss_elementwise<Loss::mean_absolute_error>(a);
    case Loss::huber:
      return loss_elementwise<Loss::huber>(a);
    case Loss::binary_cross_entropy:
      return loss_elementwise<Loss::binary_cross_entropy>(a);
    case Loss::binary_cross_entropy_logits:
      return loss_elementwise<Loss::binary_cross_entropy_logits>(a);
    case Loss::categorical_cross_entropy:
      return loss_elementwise<Loss::categorical_cross_entropy>(a);
    case Loss::categorical_cross_entropy_logits:
      return loss_cross_entropy_logits<false>(a);
    case Loss::sparse_categorical_cross_entropy:
      return loss_sparse_probabilities(a);
    case Loss::sparse_categorical_cross_entropy_logits:
      return loss_cross_entropy_logits<true>(a);
    case Loss::hinge:
      return loss_elementwise<Loss::hinge>(a);
    case Loss::perceptron:
      return loss_elementwise<Loss::perceptron>(a);
  }
}

}  // namespace fp::FP_ISA_NAMESPACE
