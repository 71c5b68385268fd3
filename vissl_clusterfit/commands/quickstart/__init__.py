"""The quickstarts: pictures, videos, and the stages that both run."""
