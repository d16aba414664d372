"""What Antiphon's dashboards show, a module for each."""

from deploy.grafana.boards.control import CONTROL
from deploy.grafana.boards.engines import ENGINES
from deploy.grafana.boards.latency import LATENCY
from deploy.grafana.boards.queues import QUEUES
from deploy.grafana.boards.requests import REQUESTS
from deploy.grafana.boards.tenants import TENANTS

BOARDS = (REQUESTS, TENANTS, LATENCY, QUEUES, ENGINES, CONTROL)
