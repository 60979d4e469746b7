#pragma once

// The only place that states the version; CMake reads it from here.
#define MOX_VERSION_MAJOR 0
#define MOX_VERSION_MINOR 1
#define MOX_VERSION_PATCH 0
