#include "napi/errors.h"

#include "core/check.h"

static thread_local napi_ref maker = nullptr;

void setErrorMaker(napi_env env, napi_value fn) {
  maker = nullptr;
  napi_create_reference(env, fn, 1, &maker);
}

Napi::Value errorFor(napi_env env, const std::exception& e) {
  auto* known = dynamic_cast<const Error*>(&e);
  auto* memory = dynamic_cast<const OutOfMemory*>(&e);
  napi_value fn = nullptr, undefined, made = nullptr;
  if (maker) napi_get_reference_value(env, maker, &fn);
  napi_get_undefined(env, &undefined);
  napi_value args[] = {Napi::String::New(env, known ? known->code : "ERR_POLYGRAD"), Napi::String::New(env, e.what()),
                       Napi::Number::New(env, memory ? (double)memory->requested : 0),
                       Napi::Number::New(env, memory ? (double)memory->available : 0),
                       Napi::Number::New(env, memory ? (double)memory->peak : 0)};
  if (!fn || napi_call_function(env, undefined, fn, 5, args, &made) != napi_ok)
    return Napi::Error::New(env, e.what()).Value();
  return Napi::Value(env, made);
}
