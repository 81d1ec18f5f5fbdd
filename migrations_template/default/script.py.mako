"""${message}

Revision ID: ${up_revision}
Revises: ${down_revision | comma,n}
Create Date: ${create_date}
"""
<% body = config.attributes.get("embedmigrate_body") %>\
% if body:
from embedmigrate import EmbeddingModel, Recipe, op
% endif

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}
% if body:

${body.constants}
% endif


def upgrade() -> None:
% if body:
${body.upgrade}
% else:
    ${upgrades if upgrades else "pass"}
% endif


def downgrade() -> None:
% if body:
${body.downgrade}
% else:
    ${downgrades if downgrades else "pass"}
% endif
