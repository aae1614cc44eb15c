#pragma once
// Errors are exceptions with a stable code; the N-API boundary turns them into JavaScript errors. Nothing here exits.
#include <cstdint>
#include <sstream>
#include <stdexcept>
#include <string>

struct Error : std::runtime_error {
  explicit Error(const std::string& message, const char* code = "ERR_POLYGRAD")
      : std::runtime_error(message), code(code) {}
  const char* code;
};

struct OutOfMemory : Error {
  OutOfMemory(const std::string& message, size_t requested, size_t available, size_t peak)
      : Error(message, "ERR_OUT_OF_MEMORY"), requested(requested), available(available), peak(peak) {}
  size_t requested, available, peak;  // bytes
};

template <class... Parts>
std::string text(Parts&&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

// check(condition, "op: what is, ", value, ", what should be"): throws Error with the parts joined.
template <class... Parts>
inline void check(bool ok, Parts&&... message) {
  if (__builtin_expect(!ok, 0)) throw Error(text(message...), "ERR_INVALID");
}
