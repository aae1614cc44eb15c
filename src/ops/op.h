#pragma once
// OP(result, name, (parameters)) { body } defines an op, lists it for JavaScript and records its signature, all in one
// line. Nothing here knows about N-API.
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "core/check.h"
#include "kernels.h"
#include "tensor.h"

// How an op takes its arguments and gives its results; napi/ implements both.
struct Arguments {
  virtual int count() const = 0;
  virtual bool given(int i) const = 0;  // false for undefined and null
  virtual double number(int i) const = 0;
  virtual bool boolean(int i) const = 0;
  virtual std::string string(int i) const = 0;
  virtual const Tensor& tensor(int i) const = 0;
  virtual std::vector<Tensor> tensors(int i) const = 0;
  virtual Shape shape(int i) const = 0;
};
struct Results {
  virtual void tensor(Tensor&& t) = 0;  // called once for each tensor of a tuple
  virtual void tuple(int count) = 0;    // announces a tuple
  virtual void number(double n) = 0;
  virtual void boolean(bool b) = 0;
  virtual void string(const std::string& s) = 0;
  virtual void shape(const Shape& s) = 0;
};

struct Op {
  std::string signature;
  void (*call)(const Arguments&, Results&);
};
inline std::map<std::string, Op>& ops() {
  static std::map<std::string, Op> all;
  return all;
}

// How each C++ type looks from JavaScript: its TypeScript name, and how to take it.
template <class T>
struct Type;
template <>
struct Type<Tensor> {
  static std::string name() { return "Handle"; }
  static const Tensor& take(const Arguments& a, int i) { return a.tensor(i); }
};
template <class T>
struct Type<std::optional<T>> {
  static std::string name() { return Type<T>::name() + " | null"; }
  static std::optional<T> take(const Arguments& a, int i) {
    if (!a.given(i)) return std::nullopt;
    return Type<T>::take(a, i);
  }
};
template <>
struct Type<std::vector<Tensor>> {
  static std::string name() { return "readonly Handle[]"; }
  static std::vector<Tensor> take(const Arguments& a, int i) { return a.tensors(i); }
};
template <>
struct Type<Shape> {
  static std::string name() { return "readonly number[]"; }
  static Shape take(const Arguments& a, int i) { return a.shape(i); }
};
template <>
struct Type<bool> {
  static std::string name() { return "boolean"; }
  static bool take(const Arguments& a, int i) { return a.boolean(i); }
};
template <>
struct Type<double> {
  static std::string name() { return "number"; }
  static double take(const Arguments& a, int i) { return a.number(i); }
};
template <>
struct Type<int64_t> {
  static std::string name() { return "number"; }
  static int64_t take(const Arguments& a, int i) { return (int64_t)a.number(i); }
};
template <>
struct Type<Dtype> {
  static std::string name() { return "number"; }
  static Dtype take(const Arguments& a, int i) {
    double n = a.number(i);
    check(n >= 0 && n <= (double)Dtype::boolean, "there is no dtype ", n);
    return (Dtype)(int)n;
  }
};
template <>
struct Type<Device> {
  static std::string name() { return "number"; }
  static Device take(const Arguments& a, int i) { return (Device)(int)a.number(i); }
};
template <>
struct Type<std::string> {
  static std::string name() { return "string"; }
  static std::string take(const Arguments& a, int i) { return a.string(i); }
};
template <>
struct Type<void> {
  static std::string name() { return "void"; }
};
template <class... T>
struct Type<std::tuple<T...>> {
  static std::string name() {
    std::string out = "[";
    ((out += Type<T>::name(), out += ", "), ...);
    out.replace(out.size() - 2, 2, "]");
    return out;
  }
};

inline void give(Results& out, Tensor&& t) { out.tensor(std::move(t)); }
inline void give(Results& out, double n) { out.number(n); }
inline void give(Results& out, int64_t n) { out.number((double)n); }
inline void give(Results& out, bool b) { out.boolean(b); }
inline void give(Results& out, const std::string& s) { out.string(s); }
inline void give(Results& out, const Shape& s) { out.shape(s); }
template <class... T>
void give(Results& out, std::tuple<T...>&& all) {
  out.tuple(sizeof...(T));
  std::apply([&](auto&&... one) { (out.tensor(std::move(one)), ...); }, std::move(all));
}

// Lists an op. "(const Tensor& x, double eps)" gives the names of its parameters; their types come from the compiler.
void addOp(const char* name, const std::string& params, const std::vector<std::string>& types,
           const std::string& result, void (*call)(const Arguments&, Results&));
[[noreturn]] void throwCount(const char* name, int expected, int got);

template <auto fn>
struct Signature;
template <class R, class... A, R (*fn)(A...)>
struct Signature<fn> {
  static inline const char* name;
  static void call(const Arguments& args, Results& results) {
    if (args.count() > (int)sizeof...(A)) throwCount(name, (int)sizeof...(A), args.count());
    [&]<size_t... i>(std::index_sequence<i...>) {
      if constexpr (std::is_void_v<R>)
        fn(Type<std::remove_cvref_t<A>>::take(args, (int)i)...);
      else
        give(results, fn(Type<std::remove_cvref_t<A>>::take(args, (int)i)...));
    }
    (std::index_sequence_for<A...>{});
  }
  static bool add(const char* opName, const char* params) {
    name = opName;
    addOp(opName, params, {Type<std::remove_cvref_t<A>>::name()...}, Type<R>::name(), &call);
    return true;
  }
};

// Ops live in their own namespace so that op::exp and the C library's exp are different things.
#define OP(result, name, params)                                               \
  namespace op {                                                               \
  result name params;                                                          \
  }                                                                            \
  static const bool listed_##name = Signature<&op::name>::add(#name, #params); \
  result op::name params
