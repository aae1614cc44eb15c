#pragma once
// Rows by their numbers: embedding and indexSelect, and their gradients.
#include "core/view.h"

namespace cuda {

// y (outer, ids, inner) = x (outer, length, inner) at the ids; where one is out of range, NaN (0 for integers) and the
// sentence is reported.
void selectRows(const char* name, const char* sentence, View x, View ids, View y, int64_t outer, int64_t length,
                int64_t inner);
// dx (outer, length, inner), in the compute type, += dy (outer, ids, inner) at the ids. Ids out of range are left out.
void addRows(const char* name, View ids, View dy, View dx, int64_t outer, int64_t length, int64_t inner);

}  // namespace cuda
