#include "core/check.h"

#include <sstream>

std::string joined(std::initializer_list<Part> parts) {
  std::ostringstream out;
  for (const Part& part : parts) out << part;
  return out.str();
}

void throwError(std::initializer_list<Part> parts, const char* code) { throw Error(joined(parts), code); }
