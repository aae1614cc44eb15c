#include "core/sentences.h"

#include <string_view>

std::string filled(const char* sentence, const char* op, int64_t at, int64_t value, int64_t limit) {
  std::string out;
  for (std::string_view rest = sentence; !rest.empty();) {
    size_t open = rest.find('{'), close = rest.find('}');
    out += rest.substr(0, open);
    if (open == rest.npos || close == rest.npos) break;
    std::string_view gap = rest.substr(open + 1, close - open - 1);
    out += gap == "op" ? op : std::to_string(gap == "at" ? at : gap == "value" ? value : limit);
    rest.remove_prefix(close + 1);
  }
  return out;
}
