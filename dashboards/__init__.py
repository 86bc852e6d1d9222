"""What people look at, and what wakes them: Grafana dashboards as code; the chart carries what it generates."""
