#include "napi/completion.h"

#include <memory>

#include "core/check.h"
#include "napi/errors.h"

struct Completions::Pending {
  Completions* owner;
  Napi::Promise::Deferred deferred;
  Napi::ObjectReference keep;
  std::string failure;
  const char* code = "";
};

Completions::Completions(Napi::Env env) {
  napi_value name;
  napi_create_string_utf8(env, "polygrad", NAPI_AUTO_LENGTH, &name);
  napi_create_threadsafe_function(env, nullptr, nullptr, name, 0, 1, nullptr, nullptr, this, &onSettled, &settle);
  napi_unref_threadsafe_function(env, settle);
}

Completions::~Completions() { napi_release_threadsafe_function(settle, napi_tsfn_abort); }

Napi::Promise Completions::read(Napi::Env env, const Tensor& from, Napi::TypedArray to) {
  auto* p = new Pending{this, Napi::Promise::Deferred::New(env), Napi::Persistent(to.As<Napi::Object>()), {}, ""};
  Napi::Promise promise = p->deferred.Promise();
  if (pending++ == 0) napi_ref_threadsafe_function(env, settle);
  void* host = (char*)to.ArrayBuffer().Data() + to.ByteOffset();
  auto done = [](void* context, const char* failure, const char* code) {
    auto* p = (Pending*)context;
    p->failure = failure;
    p->code = code;
    napi_call_threadsafe_function(p->owner->settle, p, napi_tsfn_blocking);
  };
  try {
    backend(from.device()).download(from, host, {done, p});
  } catch (...) {  // nobody will settle it
    delete p;
    if (--pending == 0) napi_unref_threadsafe_function(env, settle);
    throw;
  }
  return promise;
}

void Completions::onSettled(napi_env env, napi_value, void* context, void* data) {
  std::unique_ptr<Pending> p((Pending*)data);
  if (!env) return;  // the environment is ending
  auto* self = (Completions*)context;
  if (--self->pending == 0) napi_unref_threadsafe_function(env, self->settle);
  try {
    Napi::HandleScope scope(env);
    if (p->failure.empty()) {
      p->deferred.Resolve(p->keep.Value());
    } else {
      p->deferred.Reject(errorFor(env, Error(p->failure, p->code)));
    }
  } catch (const Napi::Error&) {
    // A worker that is being terminated settles nothing more; called by Node itself, this must not throw.
  }
}
