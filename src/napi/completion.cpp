#include "napi/completion.h"

#include <condition_variable>
#include <memory>
#include <mutex>

#include "core/check.h"
#include "napi/errors.h"

struct Completions::Pending {
  Completions* owner;
  Napi::Promise::Deferred deferred;
  Napi::ObjectReference keep;
  std::string failure;
};

Completions::Completions(Napi::Env env) {
  napi_value name;
  napi_create_string_utf8(env, "polygrad", NAPI_AUTO_LENGTH, &name);
  napi_create_threadsafe_function(env, nullptr, nullptr, name, 0, 1, nullptr, nullptr, this, &onSettled, &settle);
  napi_unref_threadsafe_function(env, settle);
}

Completions::~Completions() { napi_release_threadsafe_function(settle, napi_tsfn_abort); }

Napi::Promise Completions::read(Napi::Env env, const Tensor& from, Napi::TypedArray to) {
  auto* p = new Pending{this, Napi::Promise::Deferred::New(env), Napi::Persistent(to.As<Napi::Object>()), {}};
  Napi::Promise promise = p->deferred.Promise();
  if (pending++ == 0) napi_ref_threadsafe_function(env, settle);
  void* host = (char*)to.ArrayBuffer().Data() + to.ByteOffset();
  auto done = [](void* context, const char* failure) {
    auto* p = (Pending*)context;
    p->failure = failure;
    napi_call_threadsafe_function(p->owner->settle, p, napi_tsfn_blocking);
  };
  backend(from.device()).download(from, host, {done, p});
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
      p->deferred.Reject(errorFor(env, Error(p->failure, "ERR_DEVICE_DATA")));
    }
  } catch (const Napi::Error&) {
    // A worker that is being terminated settles nothing more; called by Node itself, this must not throw.
  }
}

void readNow(const Tensor& from, void* to) {
  struct Wait {
    std::mutex mutex;
    std::condition_variable ready;
    bool done = false;
    std::string failure;
  } wait;
  backend(from.device())
      .download(from, to,
                {[](void* context, const char* failure) {
                   auto& w = *(Wait*)context;
                   std::lock_guard lock(w.mutex);
                   w.failure = failure;
                   w.done = true;
                   w.ready.notify_one();
                 },
                 &wait});
  std::unique_lock lock(wait.mutex);
  wait.ready.wait(lock, [&] { return wait.done; });
  if (!wait.failure.empty()) throw Error(wait.failure, "ERR_DEVICE_DATA");
}
