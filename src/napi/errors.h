#pragma once
// C++ exceptions as the error classes of lib/errors.ts, which JavaScript makes itself.
#include <napi.h>

#include <exception>
#include <string>

// fn(code, message, requested, free, peak) makes an error; of the environment of this thread.
void setErrorMaker(napi_env env, napi_value fn);

// The error for an exception.
Napi::Value errorFor(napi_env env, const std::exception& e);
