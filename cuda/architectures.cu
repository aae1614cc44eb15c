#include "architectures.h"

#include <cctype>
#include <cstdlib>
#include <sstream>

namespace cuda {
namespace {

struct Built {
  int architecture;
  char feature;  // 'a': of this architecture alone, 'f': of its generation, 0: also of later ones
  bool code, ptx;
  std::string number;  // as written: 90a
};

template <class Fn>
void eachBuilt(const std::string& list, Fn fn) {
  std::istringstream in(list);
  for (std::string word; std::getline(in, word, ',');) {
    const std::string number = word.substr(0, word.find('-')), kind = word.substr(number.size());
    char* end;
    const int architecture = (int)std::strtol(number.c_str(), &end, 10);
    fn(Built{architecture, *end, kind != "-virtual", kind != "-real", number});
  }
}

}  // namespace

Image imageFor(const std::string& built, int capability) {
  Image code, ptx;
  eachBuilt(built, [&](const Built& b) {
    const bool own = b.architecture == capability, specific = b.feature == 'a';
    if (!b.architecture) code = {capability, false};
    const bool generation = b.architecture / 10 == capability / 10 && b.architecture <= capability;
    auto prefer = [&](Image& best) {
      if (b.architecture > best.architecture || (b.architecture == best.architecture && specific))
        best = {b.architecture, specific};
    };
    if (b.code && (specific ? own : generation)) prefer(code);
    if (b.ptx && (specific ? own : b.feature ? generation : b.architecture <= capability)) prefer(ptx);
  });
  return code.architecture ? code : ptx;
}

std::string listed(const std::string& built) {
  std::string out;
  eachBuilt(built, [&](const Built& b) {
    if (b.code) out += (out.empty() ? "" : ", ") + (b.architecture ? "sm_" + b.number : b.number);
    if (b.ptx && b.architecture) out += (out.empty() ? "PTX of " : ", PTX of ") + b.number;
  });
  return out;
}

}  // namespace cuda
