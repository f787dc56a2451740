// A management library of an old driver: it starts, and knows no versioned list of processes.

extern "C" {
int nvmlInit_v2() { return 0; }
int nvmlShutdown() { return 0; }
const char* nvmlErrorString(int) { return "an error"; }
}
