extern "C" int vitscale_something_else() { return 0; }
