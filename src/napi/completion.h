#pragma once
// Promises that a stream settles: the native side of `await t.data()`.
#include <napi.h>

#include <atomic>
#include <functional>
#include <string>

#include "kernels.h"
#include "tensor.h"

// One for each JavaScript environment.
class Completions {
 public:
  explicit Completions(Napi::Env env);
  ~Completions();

  // Copies a contiguous tensor into an ArrayBuffer view, in stream order, and keeps the view alive meanwhile.
  Napi::Promise read(Napi::Env env, const Tensor& from, Napi::TypedArray to);

 private:
  struct Pending;
  napi_threadsafe_function settle;
  int pending = 0;  // promises that are not settled; they keep the process alive
  static void onSettled(napi_env env, napi_value, void* context, void* data);
};
