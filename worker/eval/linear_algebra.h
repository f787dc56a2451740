// What the regression needs of BLAS and LAPACK, in f64, row-major. The one place that calls them.
//
// One call at a time in the process: an OpenBLAS that was built without threads (Debian's
// libopenblas-serial) shares its work buffers between callers without a lock, so two threads that
// call it at once get wrong numbers. (Its build option USE_LOCKING is off there.)

#ifndef WORKER_EVAL_LINEAR_ALGEBRA_H_
#define WORKER_EVAL_LINEAR_ALGEBRA_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"

namespace vitscale::linear_algebra {

enum class Transpose { kNo, kYes };

// c [m, n] = A B. A is a [m, k], or [k, m] transposed; B is b [k, n], or [n, k] transposed.
void Multiply(int64_t m, int64_t n, int64_t k, const double* a, Transpose transpose_a,
              const double* b, Transpose transpose_b, double* c);

// Lower triangle of `gram` [columns, columns] += x' x, x being [rows, columns].
void AddGramOfColumns(int64_t rows, int64_t columns, const double* x, double* gram);

// Lower triangle of `gram` [rows, rows] = x x', x being [rows, columns].
void GramOfRows(int64_t rows, int64_t columns, const double* x, double* gram);

// Eigenvalues of a symmetric matrix [side, side], rising; its lower triangle is read, and the
// eigenvectors, one a row, take its place. LAPACK dsyevd. Errors: INTERNAL if it does not converge.
absl::StatusOr<std::vector<double>> Diagonalise(int64_t side, std::vector<double>* matrix);

}  // namespace vitscale::linear_algebra

#endif  // WORKER_EVAL_LINEAR_ALGEBRA_H_
