// Threads that meet at an Occupancy no one has entered yet, which is what a fork leaves behind: never a writer beside
// anybody else.
#include "network/occupancy.cpp"

#include <atomic>
#include <cstdio>
#include <memory>
#include <thread>

namespace {

int failures = 0;

struct Meeting {
  fp::Occupancy occupancy;
  std::atomic<int> present{0}, inside{0};
  std::atomic<int> writing{0};
  std::atomic<bool> conflict{false};

  void take_part(bool writes) {
    for (++present; present < 2;) std::this_thread::yield();
    try {
      if (writes) {
        fp::Exclusive hold(occupancy);
        ++writing;
        ++inside;
        for (int i = 0; i < 50; ++i)
          if (inside > 1) conflict = true;
        --inside;
        --writing;
      } else {
        fp::Shared hold(occupancy);
        ++inside;
        for (int i = 0; i < 50; ++i)
          if (writing > 0) conflict = true;
        --inside;
      }
    } catch (const fp::Busy&) {
    }
  }
};

void meet(bool second_writes) {
  int conflicts = 0;
  constexpr int kMeetings = 10'000;
  auto meetings = std::make_unique<Meeting[]>(kMeetings);
  std::thread other([&] {
    for (int i = 0; i < kMeetings; ++i) meetings[i].take_part(second_writes);
  });
  for (int i = 0; i < kMeetings; ++i) meetings[i].take_part(true);
  other.join();
  for (int i = 0; i < kMeetings; ++i) conflicts += meetings[i].conflict;
  if (conflicts) {
    std::printf("%d of %d meetings with a %s were conflicts\n", conflicts, kMeetings,
                second_writes ? "writer" : "reader");
    ++failures;
  }
}

void count_changes() {
  fp::Occupancy o;
  const fp::Occupancy::Changes changes = o.changes();
  {
    fp::Exclusive hold(o);
  }
  {
    fp::Shared hold(o);
  }
  if (*changes != 0) ++failures;
  {
    fp::Exclusive hold(o, fp::Writes::parameters);
  }
  if (*changes != 1) ++failures;
}

}  // namespace

int main() {
  meet(true);
  meet(false);
  count_changes();
  std::printf("%d failures\n", failures);
  return failures ? 1 : 0;
}
