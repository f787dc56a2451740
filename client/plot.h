// Curves of a job as a picture: `vitscale plot`. SVG, written here; no I/O.

#ifndef CLIENT_PLOT_H_
#define CLIENT_PLOT_H_

#include <string>
#include <vector>

namespace vitscale {

struct PlotPoint {
  double x = 0, y = 0;
};

// A line, or marks with labels where `marks` is set.
struct PlotSeries {
  std::string name;
  std::vector<PlotPoint> points;    // non-finite ones leave a gap
  std::string color;                // "#1f77b4"
  bool marks = false;               // circles instead of a line
  std::vector<std::string> labels;  // of marks, as many as points; may be empty
  double opacity = 1;
  double width = 1.6;
};

struct PlotPanel {
  std::string y_label;
  std::vector<PlotSeries> series;
  bool log_scale = false;  // of y; falls back to linear where a value is not positive
};

struct Plot {
  std::string title;
  std::string subtitle;
  std::string x_label;
  std::vector<PlotPanel> panels;  // one below the other, with the same x axis
};

// At most this many points of a line are drawn: the smallest and largest of each pixel column stay.
inline constexpr int kPlotColumns = 1000;

std::string PlotSvg(const Plot& plot);

// Round numbers that cover [low, high]: steps of 1, 2 or 5 times a power of ten, about `count` of
// them.
std::vector<double> NiceTicks(double low, double high, int count);

// Exponential moving average with the memory of `span` points, once from each side: no lag.
std::vector<PlotPoint> Smoothed(const std::vector<PlotPoint>& points, double span);

}  // namespace vitscale

#endif  // CLIENT_PLOT_H_
