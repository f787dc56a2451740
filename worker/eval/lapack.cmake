# LAPACK through its C interface, and BLAS's. Which implementation runs is the system's choice
# (update-alternatives liblapack.so.3): deploy/packages.txt asks for OpenBLAS without threads, so that a rank stays
# on its own cores.
find_path(LAPACKE_INCLUDE_DIR NAMES lapacke.h REQUIRED)
find_path(CBLAS_INCLUDE_DIR NAMES cblas.h REQUIRED)
find_library(LAPACKE_LIBRARY NAMES lapacke REQUIRED)
find_library(BLAS_LIBRARY NAMES blas REQUIRED)
if(NOT TARGET LAPACKE::lapacke)
  add_library(LAPACKE::lapacke SHARED IMPORTED GLOBAL)
  set_target_properties(LAPACKE::lapacke PROPERTIES
    IMPORTED_LOCATION "${LAPACKE_LIBRARY}"
    INTERFACE_INCLUDE_DIRECTORIES "${LAPACKE_INCLUDE_DIR};${CBLAS_INCLUDE_DIR}"
    INTERFACE_LINK_LIBRARIES "${BLAS_LIBRARY}")
endif()
