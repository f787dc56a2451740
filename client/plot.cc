#include "client/plot.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "client/text.h"

namespace vitscale {
namespace {

constexpr double kWidth = 960, kLeft = 76, kRight = 24, kTop = 64, kPanelHeight = 300,
                 kPanelGap = 34, kBottom = 56;

struct Range {
  double low = std::numeric_limits<double>::infinity();
  double high = -std::numeric_limits<double>::infinity();
  void Add(double value) {
    if (!std::isfinite(value)) return;
    low = std::min(low, value);
    high = std::max(high, value);
  }
  bool empty() const { return low > high; }
};

std::string Escape(const std::string& text) {
  return absl::StrReplaceAll(text,
                             {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"\"", "&quot;"}});
}

std::string Number(double value) { return absl::StrFormat("%.2f", value); }

// "0.001", "1,000", "2e-05".
std::string TickText(double value) {
  if (value == 0) return "0";
  const double size = std::abs(value);
  if (size >= 1e7 || size < 1e-3)
    return absl::StrReplaceAll(absl::StrFormat("%.3g", value), {{"e-0", "e-"}, {"e+0", "e"}});
  if (size >= 1000 && value == std::floor(value)) return Thousands(static_cast<int64_t>(value));
  return absl::StrFormat("%.6g", value);
}

std::string SvgText(double x, double y, const std::string& text, const std::string& style) {
  return absl::StrFormat("<text x=\"%.1f\" y=\"%.1f\" %s>%s</text>\n", x, y, style, Escape(text));
}

std::string SvgLine(double x1, double y1, double x2, double y2, const std::string& style) {
  return absl::StrFormat("<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" %s/>\n", x1, y1, x2,
                         y2, style);
}

// From data to pixels along one axis.
class Axis {
 public:
  Axis(Range range, bool log, double pixel_low, double pixel_high)
      : log_(log), a_(pixel_low), b_(pixel_high) {
    if (range.empty()) range.low = 0, range.high = 1;
    low_ = At(range.low);
    high_ = At(range.high);
    if (low_ == high_) {
      const double pad = low_ == 0 ? 1 : std::abs(low_) * 0.1;
      low_ -= pad;
      high_ += pad;
    }
  }
  void Pad(double share) {
    const double pad = (high_ - low_) * share;
    low_ -= pad;
    high_ += pad;
  }
  double Pixel(double value) const { return a_ + (At(value) - low_) / (high_ - low_) * (b_ - a_); }
  std::vector<double> Ticks(int count) const {
    return log_ ? LogTicks() : NiceTicks(low_, high_, count);
  }

 private:
  double At(double value) const { return log_ ? std::log10(value) : value; }
  // 1, 2, 5 of every decade, thinned to decades where there are many.
  std::vector<double> LogTicks() const {
    std::vector<double> ticks;
    const bool many = high_ - low_ > 3;
    for (int decade = static_cast<int>(std::floor(low_)); decade <= high_; ++decade) {
      for (const double digit : {1.0, 2.0, 5.0}) {
        const double tick = digit * std::pow(10.0, decade);
        const double at = std::log10(tick);
        if (at >= low_ - 1e-9 && at <= high_ + 1e-9 && !(many && digit != 1)) ticks.push_back(tick);
      }
    }
    return ticks;
  }
  const bool log_;
  const double a_, b_;
  double low_ = 0, high_ = 1;
};

// The smallest and largest value of each column of pixels, in order of x.
std::vector<PlotPoint> Thinned(const std::vector<PlotPoint>& points) {
  if (points.size() <= 2 * static_cast<size_t>(kPlotColumns)) return points;
  std::vector<PlotPoint> thin;
  const double per_column = static_cast<double>(points.size()) / kPlotColumns;
  for (int column = 0; column < kPlotColumns; ++column) {
    const auto first = points.begin() + static_cast<ptrdiff_t>(column * per_column);
    const auto last =
        points.begin() + static_cast<ptrdiff_t>(std::min<double>(static_cast<double>(points.size()),
                                                                 (column + 1) * per_column));
    if (first == last) continue;
    auto [low, high] = std::minmax_element(first, last, [](auto& a, auto& b) { return a.y < b.y; });
    if (high < low) std::swap(low, high);
    thin.push_back(*low);
    if (low != high) thin.push_back(*high);
  }
  thin.back() = points.back();
  return thin;
}

std::string Polylines(const PlotSeries& series, const Axis& x, const Axis& y, bool log) {
  std::string out, path;
  const auto flush = [&] {
    if (!path.empty()) {
      absl::StrAppend(&out, "<polyline fill=\"none\" stroke=\"", series.color, "\" stroke-width=\"",
                      series.width, "\" stroke-opacity=\"", series.opacity,
                      "\" stroke-linejoin=\"round\" points=\"", path, "\"/>\n");
    }
    path.clear();
  };
  for (const PlotPoint& p : Thinned(series.points)) {
    if (!std::isfinite(p.y) || (log && p.y <= 0)) {
      flush();
      continue;
    }
    absl::StrAppend(&path, path.empty() ? "" : " ", Number(x.Pixel(p.x)), ",",
                    Number(y.Pixel(p.y)));
  }
  flush();
  return out;
}

std::string Marks(const PlotSeries& series, const Axis& x, const Axis& y) {
  std::string out;
  for (size_t i = 0; i < series.points.size(); ++i) {
    const PlotPoint& p = series.points[i];
    if (!std::isfinite(p.y)) continue;
    const double px = x.Pixel(p.x), py = y.Pixel(p.y);
    absl::StrAppend(
        &out,
        absl::StrFormat("<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3.5\" fill=\"%s\" stroke=\"#fff\"/>\n",
                        px, py, series.color));
    if (i < series.labels.size() && !series.labels[i].empty()) {
      const bool left = px > kWidth - kRight - 60;
      absl::StrAppend(
          &out, SvgText(left ? px - 6 : px + 6, py - 6, series.labels[i],
                        absl::StrCat("class=\"label\" fill=\"", series.color, "\" text-anchor=\"",
                                     left ? "end" : "start", "\"")));
    }
  }
  return out;
}

std::string Legend(const PlotPanel& panel, double top) {
  std::string out;
  double x = kWidth - kRight - 12;
  for (auto series = panel.series.rbegin(); series != panel.series.rend(); ++series) {
    if (series->name.empty()) continue;
    absl::StrAppend(&out,
                    SvgText(x, top + 18, series->name, "class=\"label\" text-anchor=\"end\""));
    x -= 7.0 * static_cast<double>(series->name.size()) + 8;
    absl::StrAppend(
        &out, series->marks
                  ? absl::StrFormat("<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3.5\" fill=\"%s\"/>\n",
                                    x - 8, top + 14, series->color)
                  : SvgLine(x - 18, top + 14, x, top + 14,
                            absl::StrCat("stroke=\"", series->color,
                                         "\" stroke-width=\"2.5\" stroke-opacity=\"",
                                         series->opacity, "\"")));
    x -= 34;
  }
  return out;
}

bool AllPositive(const PlotPanel& panel) {
  for (const PlotSeries& series : panel.series) {
    for (const PlotPoint& p : series.points) {
      if (std::isfinite(p.y) && p.y <= 0) return false;
    }
  }
  return true;
}

std::string DrawPanel(const PlotPanel& panel, const Axis& x, double top, bool last,
                      const std::string& x_label) {
  const double bottom = top + kPanelHeight;
  const bool log = panel.log_scale && AllPositive(panel);
  Range range;
  for (const PlotSeries& series : panel.series) {
    for (const PlotPoint& p : series.points) range.Add(p.y);
  }
  Axis y(range, log, bottom, top);
  y.Pad(0.06);
  std::string out;
  for (const double tick : y.Ticks(6)) {
    const double at = y.Pixel(tick);
    absl::StrAppend(&out, SvgLine(kLeft, at, kWidth - kRight, at, "class=\"grid\""));
    absl::StrAppend(
        &out, SvgText(kLeft - 8, at + 4, TickText(tick), "class=\"tick\" text-anchor=\"end\""));
  }
  for (const double tick : x.Ticks(9)) {
    const double at = x.Pixel(tick);
    absl::StrAppend(&out, SvgLine(at, top, at, bottom, "class=\"grid\""));
    if (last)
      absl::StrAppend(
          &out, SvgText(at, bottom + 18, TickText(tick), "class=\"tick\" text-anchor=\"middle\""));
  }
  absl::StrAppend(&out, SvgLine(kLeft, bottom, kWidth - kRight, bottom, "class=\"axis\""),
                  SvgLine(kLeft, top, kLeft, bottom, "class=\"axis\""));
  for (const PlotSeries& series : panel.series) {
    absl::StrAppend(&out, series.marks ? Marks(series, x, y) : Polylines(series, x, y, log));
  }
  const double middle = (top + bottom) / 2;
  absl::StrAppend(&out, SvgText(18, middle, panel.y_label,
                                absl::StrFormat("class=\"axis-label\" text-anchor=\"middle\" "
                                                "transform=\"rotate(-90 18 %.1f)\"",
                                                middle)));
  if (last) {
    absl::StrAppend(&out, SvgText((kLeft + kWidth - kRight) / 2, bottom + 42, x_label,
                                  "class=\"axis-label\" text-anchor=\"middle\""));
  }
  return out + Legend(panel, top);
}

// In place; normalised, so that the first points are not pulled to zero.
void Average(double span, std::vector<PlotPoint>* points) {
  const double decay = 1 - 1 / std::max(1.0, span);
  double sum = 0, weight = 0;
  for (PlotPoint& p : *points) {
    if (std::isfinite(p.y)) {
      sum = decay * sum + p.y;
      weight = decay * weight + 1;
    }
    if (weight > 0) p.y = sum / weight;
  }
}

constexpr char kStyle[] =
    "<style>text{font-family:system-ui,'DejaVu Sans',Helvetica,Arial,sans-serif;fill:#333}"
    ".title{font-size:18px;font-weight:600}.subtitle{font-size:12.5px;fill:#666}"
    ".tick{font-size:12px;fill:#555}.axis-label{font-size:13px}.label{font-size:12px}"
    ".grid{stroke:#e6e6e6;stroke-width:1}.axis{stroke:#666;stroke-width:1.2}</style>\n";

}  // namespace

std::vector<double> NiceTicks(double low, double high, int count) {
  std::vector<double> ticks;
  if (!(high > low) || count < 1) return {low};
  const double raw = (high - low) / count;
  const double power = std::pow(10.0, std::floor(std::log10(raw)));
  const double scaled = raw / power;
  const double step = power * (scaled <= 1 ? 1 : scaled <= 2 ? 2 : scaled <= 5 ? 5 : 10);
  for (double k = std::ceil(low / step - 1e-9); k * step <= high + step * 1e-9; ++k) {
    ticks.push_back(k * step);
  }
  return ticks;
}

std::vector<PlotPoint> Smoothed(const std::vector<PlotPoint>& points, double span) {
  std::vector<PlotPoint> forward = points, backward(points.rbegin(), points.rend());
  Average(span, &forward);
  Average(span, &backward);
  for (size_t i = 0; i < points.size(); ++i) {
    forward[i].y = (forward[i].y + backward[points.size() - 1 - i].y) / 2;
  }
  return forward;
}

std::string PlotSvg(const Plot& plot) {
  const double panels = static_cast<double>(plot.panels.size());
  const double height =
      kTop + panels * kPanelHeight + std::max(0.0, panels - 1) * kPanelGap + kBottom;
  Range range;
  for (const PlotPanel& panel : plot.panels) {
    for (const PlotSeries& series : panel.series) {
      for (const PlotPoint& p : series.points) range.Add(p.x);
    }
  }
  const Axis x(range, false, kLeft, kWidth - kRight);
  std::string out = absl::StrFormat(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" viewBox=\"0 0 %.0f "
      "%.0f\">\n",
      kWidth, height, kWidth, height);
  absl::StrAppend(&out, kStyle, "<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n",
                  SvgText(kLeft, 28, plot.title, "class=\"title\""),
                  SvgText(kLeft, 48, plot.subtitle, "class=\"subtitle\""));
  for (size_t i = 0; i < plot.panels.size(); ++i) {
    const double top = kTop + static_cast<double>(i) * (kPanelHeight + kPanelGap);
    absl::StrAppend(&out,
                    DrawPanel(plot.panels[i], x, top, i + 1 == plot.panels.size(), plot.x_label));
  }
  return out + "</svg>\n";
}

}  // namespace vitscale
