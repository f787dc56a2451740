#include "worker/eval/linear_algebra.h"

#include <cblas.h>
#include <lapacke.h>

#include "absl/base/const_init.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"

namespace vitscale::linear_algebra {
namespace {

ABSL_CONST_INIT absl::Mutex one_call(absl::kConstInit);

CBLAS_TRANSPOSE Of(Transpose transpose) {
  return transpose == Transpose::kYes ? CblasTrans : CblasNoTrans;
}

void SymmetricProduct(CBLAS_TRANSPOSE transpose, int64_t side, int64_t inner, const double* x,
                      int64_t row_length, double beta, double* gram) {
  absl::MutexLock lock(&one_call);
  cblas_dsyrk(CblasRowMajor, CblasLower, transpose, static_cast<int>(side), static_cast<int>(inner),
              1.0, x, static_cast<int>(row_length), beta, gram, static_cast<int>(side));
}

}  // namespace

void Multiply(int64_t m, int64_t n, int64_t k, const double* a, Transpose transpose_a,
              const double* b, Transpose transpose_b, double* c) {
  absl::MutexLock lock(&one_call);
  cblas_dgemm(
      CblasRowMajor, Of(transpose_a), Of(transpose_b), static_cast<int>(m), static_cast<int>(n),
      static_cast<int>(k), 1.0, a, static_cast<int>(transpose_a == Transpose::kYes ? m : k), b,
      static_cast<int>(transpose_b == Transpose::kYes ? k : n), 0.0, c, static_cast<int>(n));
}

void AddGramOfColumns(int64_t rows, int64_t columns, const double* x, double* gram) {
  SymmetricProduct(CblasTrans, columns, rows, x, columns, 1.0, gram);
}

void GramOfRows(int64_t rows, int64_t columns, const double* x, double* gram) {
  SymmetricProduct(CblasNoTrans, rows, columns, x, columns, 0.0, gram);
}

absl::StatusOr<std::vector<double>> Diagonalise(int64_t side, std::vector<double>* matrix) {
  std::vector<double> eigenvalues(side);
  absl::MutexLock lock(&one_call);
  // Row-major and lower is column-major and upper; LAPACK's columns are our rows.
  const lapack_int info =
      LAPACKE_dsyevd(LAPACK_COL_MAJOR, 'V', 'U', static_cast<lapack_int>(side), matrix->data(),
                     static_cast<lapack_int>(side), eigenvalues.data());
  if (info != 0) {
    return absl::InternalError(
        absl::StrCat("LAPACK dsyevd of a matrix of side ", side, " ended with ", info));
  }
  return eigenvalues;
}

}  // namespace vitscale::linear_algebra
