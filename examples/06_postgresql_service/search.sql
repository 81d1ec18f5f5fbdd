-- Search from SQL. `query` is what the service answers to /vector: the embedded query, and which
-- model it is of. A query of another model than the live index is refused with SQLSTATE EM001.
--
--     psql "$DATABASE_URL" -v query="$(curl -s "$SERVICE/vector?q=vitamin+D")" -f search.sql
\set VERBOSITY verbose
SELECT hit.generation, round(hit.score::numeric, 4) AS score, article.id, article.title
FROM embedmigrate.search(
         'articles',
         :'query'::jsonb ->> 'model_key',
         (:'query'::jsonb ->> 'vector')::vector,
         5
     ) AS hit
JOIN articles AS article ON article.id::text = hit.id
ORDER BY hit.score DESC, hit.id;
