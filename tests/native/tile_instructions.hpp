// AMX's tile instructions on processors that have none.
#pragma once

// Lets this process run them: by the processor itself, or else one by one in a handler of SIGILL, for one thread. There
// an instruction that the manual forbids, say over tiles whose sizes do not match, ends the process. Returns who runs
// them, or nullptr where neither can.
const char* take_tile_instructions();
