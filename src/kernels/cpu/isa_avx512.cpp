// The CPU kernels for this instruction set; CMake gives this file its compiler flags.
#define CHORALE_ISA isa_avx512
#include "kernels/cpu/all.inl"
