#pragma once
// Errors are exceptions with a stable code; the N-API boundary turns them into JavaScript errors. Nothing here exits.
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <ostream>
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

// A piece of a message. Erased, so that a check costs its caller a few instructions and the compiler next to nothing.
class Part {
 public:
  template <class T>
  Part(const T& value) : value(&value), print([](std::ostream& out, const void* value) { out << *(const T*)value; }) {}
  Part(const char* words)
      : value(words), print([](std::ostream& out, const void* words) { out << (const char*)words; }) {}
  template <size_t n>
  Part(const char (&words)[n]) : Part((const char*)words) {}
  friend std::ostream& operator<<(std::ostream& out, const Part& part) {
    part.print(out, part.value);
    return out;
  }

 private:
  const void* value;
  void (*print)(std::ostream&, const void*);
};

std::string joined(std::initializer_list<Part> parts);
[[noreturn]] void throwError(std::initializer_list<Part> parts, const char* code);

// The parts as one string.
template <class... Parts>
std::string text(const Parts&... parts) {
  return joined({Part(parts)...});
}

// check(condition, "op: what is, ", value, ", what should be"): throws Error with the parts joined.
template <class... Parts>
inline void check(bool ok, const Parts&... message) {
  if (__builtin_expect(!ok, 0)) throwError({Part(message)...}, "ERR_INVALID");
}
